"""One turn of the loop: snapshot → train → release → trial → gate → promote → watch, each step recorded.

What a step tells goes into the record together with its end, so a cycle that was killed goes on with the
first step that is not there.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress

from slipstream.artifacts import MANIFEST, holding
from slipstream.config import Home
from slipstream.errors import ConfigError, NotThere, SlipstreamError, Unavailable, UsageError
from slipstream.events.forgetting import forgotten_since
from slipstream.loop import control_arm, journal
from slipstream.loop.cycle_steps import STEPS, Cycle
from slipstream.loop.journal import Record, StepDone
from slipstream.loop.narrator import Narrator
from slipstream.loop.policy import Policy
from slipstream.recommend.experiment import read_experiment
from slipstream.recommend.live_release import current_release, list_releases, promotions, succession


def run_cycle(home: Home, policy: Policy, narrator: Narrator) -> Record:
    """Run a cycle to its end, or the unfinished one from where it stopped, with the policy it began with.

    Raises Busy where another process is in a cycle, and what a step raised. After an error that may pass
    (busy, a full disk) the cycle can go on; after any other it is recorded as failed.
    """
    with holding(home.root / ".cycle", "cycle"):
        _tidy(home, policy.keep)
        record = journal.unfinished(home)
        if record is None:
            record = journal.begin(home, policy.model_dump(mode="json"), _live_name(home, policy))
        else:
            narrator.line(f"cycle {record.name} goes on after {len(record.steps)} steps")
        cycle = Cycle(home, record, Policy.model_validate(record.policy), narrator)
        try:
            _go_on(cycle)
        except Unavailable:
            raise
        except SlipstreamError as error:
            _end(cycle, "failed", error.message)
            raise
        _tidy(home, cycle.policy.keep)
        return record


def _live_name(home: Home, policy: Policy) -> str | None:
    try:
        return current_release(home).name
    except NotThere:
        if policy.model:
            return None
        hint = 'write model = "ease", say, into the policy; `slipstream models` lists them'
        raise UsageError("no release is live and the policy names no model", hint=hint) from None


def _go_on(cycle: Cycle) -> None:
    while not cycle.record.outcome:
        done = {step.step for step in cycle.record.steps}
        name = next(name for name in STEPS if name not in done)
        if done and _is_stale(cycle, name):
            _begin_again(cycle)
            continue
        cycle.narrator.heading(name)
        started_us, cpu_s = _now_us(), time.process_time()
        told = STEPS[name](cycle)
        step = StepDone(name, started_us, _now_us(), round(time.process_time() - cpu_s, 3), told)
        cycle.record.steps.append(step)
        if "outcome" in told:
            _end(cycle, told["outcome"], told["why"])
        else:
            journal.write(cycle.home, cycle.record)


def _end(cycle: Cycle, outcome: journal.Outcome, why: str) -> None:
    record = cycle.record
    control_arm.end(cycle.home, record.name)
    record.outcome, record.why, record.ended_us = outcome, why, _now_us()
    journal.write(cycle.home, record)
    cycle.narrator.line(f"{outcome}: {why}")


def _is_stale(cycle: Cycle, step: str) -> bool:
    """Did somebody ask to be forgotten since the snapshot, or remove what the steps before had made?"""
    if step in ("promote", "watch"):
        return False
    if forgotten_since(cycle.home) not in ("", cycle.told("snapshot")["mark"]):
        return True
    made = [cycle.work.snapshot]
    if step in ("trial", "gate"):
        made.append(cycle.home.releases / cycle.record.name)
    return not all((folder / MANIFEST).exists() for folder in made)


def _begin_again(cycle: Cycle) -> None:
    record = cycle.record
    cycle.narrator.line(
        "what was made is gone, or holds somebody who was forgotten since: from the beginning"
    )
    record.steps.clear()
    record.begun_again += 1
    for folder in (cycle.work.made, cycle.home.releases / record.name):
        shutil.rmtree(folder, ignore_errors=True)
    journal.write(cycle.home, record)


def _tidy(home: Home, keep: int) -> None:
    """Remove what finished cycles worked with, and older releases of theirs that no rollback needs next."""
    finished = [record for record in journal.records(home) if record.outcome]
    for record in finished:
        shutil.rmtree(journal.work_home(home, record).made, ignore_errors=True)
    own = {record.name for record in finished}
    try:
        running = read_experiment(home.root)
    except ConfigError:  # nobody can tell which releases its arms need
        return
    needed = running.releases() if running is not None else set()
    with suppress(SlipstreamError):
        needed |= set(succession(promotions(home.releases))[-2:])
    for listed in list_releases(home)[keep:]:
        if listed.name in own - needed:
            shutil.rmtree(home.releases / listed.name, ignore_errors=True)


def _now_us() -> int:
    return time.time_ns() // 1000

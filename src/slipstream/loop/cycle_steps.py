"""The steps of a cycle. Each returns plain values for the record, and reads only those and files.

A step that was killed after its work finds the work done. `outcome` among the values ends the cycle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.artifacts import MANIFEST
from slipstream.config import Home
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import BadInput, NotThere, OverBudget, UsageError
from slipstream.evaluation.budget import parse_budget
from slipstream.evaluation.contest import Contest, contest, questions
from slipstream.evaluation.drift import InputDrift, input_drift
from slipstream.evaluation.true_reasons import ReasonCheck, check_reasons, events_as_edges
from slipstream.events.forgetting import forgotten_since
from slipstream.events.sqlite import SqliteEventStore
from slipstream.events.sqlite_impressions import SqliteImpressionStore
from slipstream.loop import control_arm, journal
from slipstream.loop.exporting import known_edges
from slipstream.loop.gate import Check, Evidence, Verdict, enough_events, judge
from slipstream.loop.home_lock import writing_home
from slipstream.loop.journal import Record
from slipstream.loop.learning import snapshot_mark, train
from slipstream.loop.narrator import Narrator
from slipstream.loop.policy import Policy
from slipstream.loop.preparing import prepare
from slipstream.loop.releasing import EXPLAINS, make_release
from slipstream.loop.watching import look, seconds_left, wait_for_the_next_look
from slipstream.recommend.live_release import promote, promotions, rollback
from slipstream.recommend.pipeline import Pipeline
from slipstream.recommend.release import Release
from slipstream.recommend.rules import Rules, read_rules

Told = dict[str, Any]
REASONS_ASKED = 20
"""People whose reasons are looked up."""


@dataclass
class Cycle:
    """A cycle that goes on."""

    home: Home
    record: Record
    policy: Policy
    narrator: Narrator

    @cached_property
    def work(self) -> Home:
        return journal.work_home(self.home, self.record)

    @cached_property
    def live(self) -> Release | None:
        """The release to beat."""
        name = self.record.against
        return None if name is None else Release.open(self.home.releases / name)

    @property
    def model(self) -> str:
        return self.policy.model or str(self.live.meta["primary"] if self.live else "")

    @property
    def rules(self) -> Rules:
        return read_rules(self.home.root, self.live.rules if self.live else None)

    def told(self, step: str) -> Mapping[str, Any]:
        return self.record.told(step) or {}


def _snapshot(cycle: Cycle) -> Told:
    """Cut the events: what the candidate learns from, and the newest part, which it is asked about."""
    mark = forgotten_since(cycle.home)
    times = _event_times(cycle.home)
    through_us = _through_us(cycle.live)
    new = int((times > through_us).sum())
    told: Told = {"new_events": new, "through_us": through_us, "mark": mark}
    minimum = enough_events(cycle.policy, new)
    if not minimum.passed:
        return told | {"outcome": "refused", "why": minimum.why, "checks": [minimum.to_json()]}
    asked = max(1, min(int(new * cycle.policy.trial_share), cycle.policy.trial_events))
    cut_us = int(times[max(len(times) - asked - 1, 0)])
    told |= {"cut_us": cut_us, "last_us": int(times[-1]), "trial_events": int((times > cut_us).sum())}
    if not told["trial_events"]:
        return told | {"outcome": "refused", "why": "the newest events all have one time: none can be asked"}
    made = prepare(cycle.work, cycle.policy.cleaning, cycle.narrator, until_us=cut_us)
    cycle.narrator.line(
        f"{new:,} new events; {made.events:,} to learn from, the newest {told['trial_events']:,} to ask"
    )
    sizes = {"users": made.users, "items": made.items, "events": made.events}
    return told | sizes | {"snapshot": snapshot_mark(cycle.work)}


def _event_times(home: Home) -> NDArray[np.int64]:
    """In order. Raises NotThere without events, BadInput where they have no times."""
    if not home.events.exists():
        raise NotThere(f"there are no events in {home.root}", hint="run `slipstream ingest FILE` first")
    with SqliteEventStore(home.events) as store:
        parts = [chunk["time_us"].drop_nulls().to_numpy() for chunk in store.scan()]
    times = np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
    if not len(times):
        hint = "without times, train and release by hand: `slipstream evaluate` compares on other boards"
        raise BadInput("the events have no times, so none are the newest", hint=hint)
    return times


def _through_us(live: Release | None) -> int:
    """What came after this moment is new to the live release."""
    if live is None:
        return -(2**62)
    through = live.meta.get("through_us")
    return live.created_us if through is None else min(int(through), live.created_us)


def _train(cycle: Cycle) -> Told:
    """The candidate, and the path reasoner beside it where the live release has one."""
    told: Told = {}
    names = [cycle.model]
    if cycle.live is not None and cycle.model != EXPLAINS and cycle.live.by_paths is not None:
        names.append(EXPLAINS)
    for name in names:
        settings = _settings(cycle, name)
        live = cycle.live if cycle.policy.warm_start else None
        earlier = live if live is not None and live.meta["primary"] == name else None
        trained = train(cycle.work, name, settings, cycle.policy.seed, None, "cpu", cycle.narrator, earlier)
        cycle.narrator.line(trained.lines()[0])
        told[name] = {
            "validation_ndcg": trained.ndcg,
            "cpu_s": trained.cpu_s,
            "warm_start": trained.warm,
            "settings": trained.settings,
        }
    return told


def _settings(cycle: Cycle, name: str) -> Mapping[str, Any]:
    """Those of the policy over the preset; else those of the live release's model of this name."""
    if name == cycle.model and cycle.policy.settings:
        return cycle.policy.settings
    if cycle.live is None:
        return {}
    if name == cycle.live.meta["primary"]:
        return cycle.live.primary.settings.model_dump()
    reasoner: Any = cycle.live.by_paths
    return reasoner.settings.model_dump() if name == EXPLAINS and reasoner is not None else {}


def _release(cycle: Cycle) -> Told:
    """The candidate, in the smallest form that keeps the policy's budget, as a release that is not live."""
    name = cycle.record.name
    live, rules = cycle.live, cycle.rules
    with writing_home(cycle.home, "release"):
        if not (cycle.home.releases / name / MANIFEST).exists():
            pipeline = live.settings if live is not None else None
            mark, budget = cycle.told("snapshot")["mark"], cycle.policy.budget
            limits = parse_budget(budget) if budget else None
            try:
                make_release(
                    cycle.work, cycle.model, name, rules, pipeline, False, cycle.narrator, limits, mark
                )
            except OverBudget as error:
                return {"outcome": "refused", "why": error.message}
    release = Release.open(cycle.home.releases / name)
    cycle.narrator.line(f"release {name}: {release.size() / 1e6:.1f} MB")
    return {
        "release": name,
        "model": cycle.model,
        "science": release.meta["science"],
        "bytes": release.size(),
    }


def _trial(cycle: Cycle) -> Told:
    """Both releases are asked for the newest events; the reasons and the inputs are looked at."""
    past, later = Snapshot.open(cycle.work.snapshot), _later(cycle)
    candidate = Release.open(cycle.home.releases / cycle.record.name)
    repeat = cycle.rules.repeat
    asked = questions(past, later, repeat=repeat)
    found, reasons = None, None
    if asked is not None:
        found = contest(past, asked, candidate, cycle.live, k=cycle.policy.ndcg.k, repeat=repeat)
        people = past.users.texts(asked.queries.user[:: max(1, len(asked) // REASONS_ASKED)][:REASONS_ASKED])
        reasons = _reasons(cycle, past, candidate, people)
    through_us = int(cycle.told("snapshot")["through_us"])
    drift = None if cycle.live is None else input_drift(past, later, through_us)
    evidence = Evidence(int(cycle.told("snapshot")["new_events"]), found, drift, reasons)
    verdict = judge(cycle.policy, evidence)
    return _trial_json(found, drift, reasons) | {"checks": [check.to_json() for check in verdict.checks]}


def _later(cycle: Cycle) -> pl.DataFrame:
    """The events after the cut, in order of time, under the policy's rules."""
    cut, rules = cycle.told("snapshot"), cycle.policy.cleaning
    wanted = pl.col("time_us").is_between(cut["cut_us"], cut["last_us"], closed="right")
    if rules.drop_kinds:
        wanted &= ~pl.col("kind").is_in(rules.drop_kinds)
    if rules.min_value is not None:
        wanted &= (pl.col("value") >= rules.min_value).fill_null(True)
    with SqliteEventStore(cycle.home.events) as store:
        later = pl.concat([chunk.filter(wanted) for chunk in store.scan()])
    if cycle.policy.ask_about == "all" or not cycle.home.impressions.exists():
        return later
    with SqliteImpressionStore(cycle.home.impressions) as impressions:
        prompted = impressions.feedback().filter(pl.col("request_id") != "")
    return later.join(prompted, on="event_id", how="anti", maintain_order="left")


def _reasons(cycle: Cycle, past: Snapshot, release: Release, people: list[str]) -> ReasonCheck:
    with SqliteEventStore(cycle.home.events) as store:
        rows = [
            (user, kind, item)
            for user in people
            for kind, item in store.history(user, limit=release.settings.history_limit)
            .select("kind", "item_id")
            .iter_rows()
        ]
        known = pl.concat([known_edges(cycle.work, past, release), events_as_edges(rows)])
        pipeline = Pipeline(release, store, home=cycle.home)
        return check_reasons(pipeline, people, cycle.policy.ndcg.k, known)


def _trial_json(found: Contest | None, drift: InputDrift | None, reasons: ReasonCheck | None) -> Told:
    told: Told = {
        "users": 0 if found is None else found.users,
        "drift": None if drift is None else {k: _known(v) for k, v in asdict(drift).items()},
        "reasons": None if reasons is None else asdict(reasons),
    }
    if found is not None:
        told |= {
            "targets": found.targets,
            "targets_sha256": found.targets_sha256,
            "candidate": found.candidate.to_json(),
            "live": None if found.live is None else found.live.to_json(),
            "difference": None if found.difference is None else asdict(found.difference),
            "overlap": found.overlap,
        }
    return told


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _gate(cycle: Cycle) -> Told:
    verdict = Verdict(tuple(Check(**check) for check in cycle.told("trial")["checks"]))
    for check in verdict.checks:
        cycle.narrator.line(f"{'passed' if check.passed else 'REFUSED'}: {check.why}")
    told: Told = {"passed": verdict.passed, "why": verdict.why}
    return told if verdict.passed else told | {"outcome": "refused"}


def _promote(cycle: Cycle) -> Told:
    """Go live, unless something else went live since the cycle began."""
    name, releases = cycle.record.name, cycle.home.releases
    mine = next((p for p in promotions(releases) if p.name == name), None)
    if mine is None:
        try:
            promote(releases, name, why=cycle.told("gate")["why"], replacing=cycle.record.against)
        except UsageError as error:
            return {"outcome": "refused", "why": f"while this cycle ran: {error.message}"}
        mine = promotions(releases)[-1]
    cycle.narrator.line(f"{name} is live")
    return {"promoted_us": mine.time_us, "by": mine.by}


def _watch(cycle: Cycle) -> Told:
    """Wait and look; go back if people take less of it than of the release before."""
    name, earlier, watch = cycle.record.name, cycle.record.against, cycle.policy.watch
    why = str(cycle.told("gate")["why"])
    if earlier is None or not watch.minutes:
        return {"outcome": "promoted", "why": why, "looks": 0}
    promoted_us = int(cycle.told("promote")["promoted_us"])
    until_s, looks = time.monotonic() + seconds_left(watch, promoted_us), 0
    if (ended := _no_longer_live(cycle)) is not None:
        return ended | {"looks": looks}
    control = control_arm.begin(cycle.home, name, earlier, watch.control) if watch.control else None
    if watch.control and control is None:
        cycle.narrator.line("another experiment runs: no control arm, the hours before are compared")
    while True:
        seen, looks = look(cycle.home, watch, name, earlier, promoted_us, control), looks + 1
        if (ended := _no_longer_live(cycle)) is not None:
            return ended | {"looks": looks}
        if seen.verdict == "worse":
            told = f"{name} was worse: {seen.why}"
            rollback(cycle.home.releases, leaving=name, why=told)
            return {"outcome": "rolled back", "why": told, "looks": looks}
        if (left_s := until_s - time.monotonic()) <= 0:
            return {"outcome": "promoted", "why": why, "looks": looks, "seen": seen.why}
        wait_for_the_next_look(watch, left_s)


def _no_longer_live(cycle: Cycle) -> Told | None:
    """How the watch ended where something else is live by now; None while the candidate is."""
    name, last = cycle.record.name, promotions(cycle.home.releases)[-1]
    if last.name == name:
        return None
    if last.back and last.why.startswith(name):  # killed after it had gone back
        return {"outcome": "rolled back", "why": last.why}
    why = f"{cycle.told('gate')['why']}; while it was watched, {last.name} was made live by hand"
    return {"outcome": "promoted", "why": why}


STEPS: dict[str, Callable[[Cycle], Told]] = {
    "snapshot": _snapshot,
    "train": _train,
    "release": _release,
    "trial": _trial,
    "gate": _gate,
    "promote": _promote,
    "watch": _watch,
}

"""kill -9 of real cycles that watch with a control arm: the next process watches on, or goes back once."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cycle_world
import pytest

import slipstream
from slipstream.events.impressions import DAY_US
from slipstream.events.sqlite_impressions import SqliteImpressionStore
from slipstream.loop import control_arm, journal
from slipstream.loop.workspace import Workspace
from slipstream.recommend.experiment import read_experiment
from slipstream.recommend.live_release import current_release, promotions

WATCH = {"minutes": 60, "every_s": 0.05, "answers": 200, "control": 0.3}
DYING = """
import json, os, signal, sys
from pathlib import Path
from slipstream.config import Home
from slipstream.loop import control_arm, cycle_steps
from slipstream.loop.cycle import run_cycle
from slipstream.loop.narrator import Silent
from slipstream.loop.policy import Policy

home, policy, where = Home(Path(sys.argv[1])), Policy.model_validate_json(sys.argv[2]), sys.argv[3]
room, name = {
    "arms": (control_arm, "begin"),
    "look": (cycle_steps, "look"),
    "back": (cycle_steps, "rollback"),
    "end": (control_arm, "end"),
}[where]
real = getattr(room, name)

def the_last(*given, **named):
    real(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(room, name, the_last)
run_cycle(home, policy, Silent())
"""


def killed(space: Workspace, after: str) -> journal.Record:
    """A process goes on with the cycle and dies after one call: what it leaves."""
    policy = cycle_world.policy(watch=WATCH).model_dump_json()
    command = [sys.executable, "-c", DYING, str(space.home.root), policy, after]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    record = journal.unfinished(space.home)
    assert record is not None
    assert [step.step for step in record.steps] == cycle_world.STEPS[:-1]
    return record


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose cycle died in its first look, and that people went on asking meanwhile."""
    space = cycle_world.home(tmp_path_factory.mktemp("watched") / "home")
    for after in ("arms", "look"):
        record = killed(space, after)
        assert current_release(space.home).name == record.name
        running = read_experiment(space.home.root)
        assert running is not None
        assert running.arms[control_arm.CONTROL].release == "first"  # servers keep the arms meanwhile
    return space.home.root


@pytest.fixture
def space(watched: Path, tmp_path: Path) -> Workspace:
    return slipstream.open(shutil.copytree(watched, tmp_path / "home"))


def answered(space: Workspace, new: float, control: float) -> None:
    """Both arms answer while no cycle runs; people click on so many."""
    running, now_us = read_experiment(space.home.root), time.time_ns() // 1000
    assert running is not None
    name = current_release(space.home).name
    cycle_world.answers(space, name, now_us, new, arm=running.label(control_arm.NEW))
    cycle_world.answers(space, "first", now_us, control, arm=running.label(control_arm.CONTROL))


def logged(space: Workspace) -> tuple[int, int]:
    with SqliteImpressionStore(space.home.impressions) as store:
        return store.served().height, store.feedback().height


def test_the_next_process_watches_on_to_the_end(space: Workspace) -> None:
    answered(space, 0.5, 0.5)
    before, record = logged(space), killed(space, "look")  # not over, and not worse
    assert current_release(space.home).name == record.name
    assert read_experiment(space.home.root) is not None
    record.policy["watch"]["minutes"] = 1e-6  # the time ran out while nobody watched
    journal.write(space.home, record)
    ended = cycle_world.run(space, cycle_world.policy())
    assert (ended.name, ended.outcome) == (record.name, "promoted")
    seen = (ended.told("watch") or {})["seen"]
    assert "of first, difference +0.0000" in seen  # what came while it was dead is looked at
    assert read_experiment(space.home.root) is None
    assert [p.name for p in promotions(space.home.releases)] == ["first", ended.name]
    assert logged(space) == before


def test_what_was_worse_goes_back_once_wherever_it_was_killed(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(space, 0.05, 0.5)
    before, record = logged(space), killed(space, "back")
    assert current_release(space.home).name == "first"
    assert read_experiment(space.home.root) is not None  # to be removed yet
    killed(space, "end")
    assert read_experiment(space.home.root) is None
    monkeypatch.setattr(control_arm, "begin", lambda *_: pytest.fail("nothing is watched any more"))
    ended = cycle_world.run(space, cycle_world.policy())
    assert (ended.name, ended.outcome) == (record.name, "rolled back")
    assert "worse: CTR 0.005" in ended.why  # of both arms since the promotion
    assert [(p.name, p.back) for p in promotions(space.home.releases)] == [
        ("first", False),
        (ended.name, False),
        ("first", True),
    ]
    assert logged(space) == before


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_jumped_makes_no_watch_longer_than_it_is(space: Workspace, years: int) -> None:
    """The promotion is stamped years ahead, or long ago: the clock was set right while nobody watched."""
    record = journal.unfinished(space.home)
    assert record is not None
    promoted = record.told("promote")
    assert isinstance(promoted, dict)
    promoted["promoted_us"] += years * 365 * DAY_US
    record.policy["watch"]["minutes"] = 0.01
    journal.write(space.home, record)
    command = [sys.executable, "-m", "slipstream", "cycle", "--home", str(space.home.root)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert journal.unfinished(space.home) is None
    assert journal.records(space.home)[-1].outcome == "promoted"
    assert read_experiment(space.home.root) is None

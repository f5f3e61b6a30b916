"""kill -9 of real cycle processes in every step: the old release is live or the new one, and it goes on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cycle_world
import pytest

import slipstream
from slipstream.loop import journal
from slipstream.loop.workspace import Workspace
from slipstream.recommend.live_release import current_release, promotions

POLICY = 'model = "item_neighbours"\n[data]\nevents = 100\nusers = 30\n[watch]\nminutes = 0\n'
DYING = """
import os, signal, sys
from pathlib import Path
from slipstream.config import Home
from slipstream.loop.cycle import run_cycle
from slipstream.loop.cycle_steps import STEPS
from slipstream.loop.narrator import Silent
from slipstream.loop.policy import read_policy

home, policy, last = Home(Path(sys.argv[1])), read_policy(Path(sys.argv[2])), sys.argv[3]
step = STEPS[last]

def the_last(cycle):
    step(cycle)
    os.kill(os.getpid(), signal.SIGKILL)  # the work is done, the record does not know

STEPS[last] = the_last
run_cycle(home, policy, Silent())
"""

DYING_IN_BETWEEN = """
import os, pathlib, signal, sys
from slipstream.config import Home
from slipstream.loop.cycle import run_cycle
from slipstream.loop.narrator import Silent
from slipstream.loop.policy import read_policy
from pathlib import Path

left = int(sys.argv[3])

def dying(real):
    def put_in_place(self, target):
        global left
        done, left = real(self, target), left - 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    return put_in_place

Path.rename, Path.replace = dying(Path.rename), dying(Path.replace)
run_cycle(Home(Path(sys.argv[1])), read_policy(Path(sys.argv[2])), Silent())
"""


@pytest.mark.slow
def test_a_cycle_killed_in_the_middle_of_its_steps_comes_to_the_same_end(tmp_path: Path) -> None:
    """Each process dies after it put one file more in place than the one before it: also within a step."""
    space = cycle_world.home(tmp_path / "home")
    whole = slipstream.open(shutil.copytree(space.home.root, tmp_path / "whole"))
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    died, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        command = [sys.executable, "-c", DYING_IN_BETWEEN, str(space.home.root), str(file), str(died + 1)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        died, code = died + (done.returncode != 0), done.returncode
        listed = {promotion.name for promotion in promotions(space.home.releases)}
        assert current_release(space.home).name in listed  # one that opens is live at any moment
    assert code == 0, done.stderr
    assert died >= 5
    _ended_alike(space, cycle_world.run(whole, cycle_world.policy()))


def test_a_cycle_killed_in_every_step_ends_as_one_that_was_never_killed(tmp_path: Path) -> None:
    space = cycle_world.home(tmp_path / "home")
    whole = slipstream.open(shutil.copytree(space.home.root, tmp_path / "whole"))
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    for place, step in enumerate(cycle_world.STEPS):
        command = [sys.executable, "-c", DYING, str(space.home.root), str(file), step]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        record = journal.unfinished(space.home)
        assert record is not None
        assert [s.step for s in record.steps] == cycle_world.STEPS[:place]
        promoted = place >= cycle_world.STEPS.index("promote")
        assert current_release(space.home).name == (record.name if promoted else "first")
    command = [sys.executable, "-m", "slipstream", "cycle", "--home", str(space.home.root)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    _ended_alike(space, cycle_world.run(whole, cycle_world.policy()))


def _ended_alike(space: Workspace, other: journal.Record) -> None:
    (ended,) = journal.records(space.home)
    assert ended.outcome == other.outcome == "promoted"
    mine, theirs = ended.told("trial") or {}, other.told("trial") or {}
    for figure in ("targets_sha256", "difference", "overlap", "drift", "reasons", "users"):
        assert mine[figure] == theirs[figure]
    assert [p.name for p in promotions(space.home.releases)] == ["first", ended.name]
    assert sorted(p.name for p in (space.home.cycles / ended.name).iterdir()) == ["record.json"]

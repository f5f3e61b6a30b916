"""The control arm of a watch: written once, found again after a kill, and only its own file is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipstream.config import Home
from slipstream.loop import control_arm
from slipstream.recommend.experiment import EXPERIMENT_FILE, read_experiment


def test_a_watch_that_was_killed_finds_its_arms_again_and_removes_no_other(tmp_path: Path) -> None:
    home, people = Home(tmp_path), [f"p{n}" for n in range(4_000)]
    begun = control_arm.begin(home, "r2", "r1", 0.25)
    assert begun is not None
    assert read_experiment(tmp_path) == begun == control_arm.begin(home, "r2", "r1", 0.25)
    arms = [begun.split.arm_of(person) for person in people]
    assert arms.count(control_arm.CONTROL) / len(people) == pytest.approx(0.25, abs=0.03)
    assert (begun.arms["control"].release, begun.arms["new"].release) == ("r1", "")
    assert begun.releases() == {"r1"}  # no cycle removes it meanwhile
    assert control_arm.begin(home, "r3", "r2", 0.25) is None  # another watch, or another experiment
    control_arm.end(home, "r3")
    assert read_experiment(tmp_path) == begun
    control_arm.end(home, "r2")
    control_arm.end(home, "r2")
    assert not (tmp_path / EXPERIMENT_FILE).exists()

"""While a release is watched, a part of the people may stay with the one before: the same hours for both.

The arm is an ordinary experiment of the home (`recommend.experiment`), written when the watch begins and
removed when the cycle ends. A home that runs an experiment of its own keeps it, and the watch compares with
before.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from slipstream.artifacts import replace_text
from slipstream.errors import ConfigError
from slipstream.recommend.experiment import EXPERIMENT_FILE, RunningExperiment, read_experiment

if TYPE_CHECKING:
    from slipstream.config import Home

NEW, CONTROL = "new", "control"


def _experiment(name: str, earlier: str, share: float) -> RunningExperiment:
    arms = {NEW: {"weight": 1 - share}, CONTROL: {"weight": share, "release": earlier}}
    return RunningExperiment.model_validate({"name": f"watch {name}", "arms": arms})


def begin(home: Home, name: str, earlier: str, share: float) -> RunningExperiment | None:
    """The experiment of this watch, written where it is not there yet; None where there is another file."""
    try:
        running = read_experiment(home.root)
    except ConfigError:  # somebody is writing one by hand
        return None
    wanted = _experiment(name, earlier, share)
    if running is None:
        text = json.dumps(wanted.model_dump(exclude_defaults=True), ensure_ascii=False, indent=1)
        replace_text(home.root / EXPERIMENT_FILE, text)
        return wanted
    return running if running.name == wanted.name else None


def end(home: Home, name: str) -> None:
    """Remove the experiment of this watch, if it is the one that runs."""
    with suppress(ConfigError):  # what cannot be read is not ours
        running = read_experiment(home.root)
        if running is not None and running.name == f"watch {name}":
            (home.root / EXPERIMENT_FILE).unlink(missing_ok=True)

"""The records of cycles: one JSON file each, replaced whole after every step, so that a killed cycle goes on.

cycles/NAME/record.json   who, which data, which policy, what each step did and found, why it ended so
cycles/NAME/work/         snapshot, graph, models and reports of the candidate; removed at the end
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from slipstream import __version__
from slipstream.artifacts import replace_text
from slipstream.config import Home, who
from slipstream.errors import CorruptArtifact
from slipstream.recommend.release import release_name

Outcome = Literal["", "promoted", "refused", "rolled back", "failed"]
RECORD, WORK = "record.json", "work"


@dataclass
class StepDone:
    """told: plain values, what the step did and what the next ones need."""

    step: str
    started_us: int
    ended_us: int
    cpu_s: float
    told: dict[str, Any]


@dataclass
class Record:
    """One cycle. outcome: empty while it goes on. against: the release that was live when it began."""

    name: str
    started_us: int
    by: str
    policy: dict[str, Any]
    against: str | None
    version: str = __version__
    steps: list[StepDone] = field(default_factory=list)
    outcome: Outcome = ""
    why: str = ""
    ended_us: int | None = None
    begun_again: int = 0

    def told(self, step: str) -> Mapping[str, Any] | None:
        """What a finished step told; None while it is not finished."""
        return next((done.told for done in self.steps if done.step == step), None)


def begin(home: Home, policy: Mapping[str, Any], against: str | None) -> Record:
    """A new cycle, recorded before it does anything."""
    now_us = time.time_ns() // 1000
    record = Record(release_name(now_us), now_us, who(), dict(policy), against)
    write(home, record)
    return record


def write(home: Home, record: Record) -> None:
    text = json.dumps(asdict(record), ensure_ascii=False, indent=1, allow_nan=False)
    replace_text(folder(home, record.name) / RECORD, text)


def folder(home: Home, name: str) -> Path:
    return home.cycles / name


def work_home(home: Home, record: Record) -> Home:
    """The home as the cycle sees it: what it makes lies apart, so that nobody else's models are touched."""
    return Home(home.root, work=folder(home, record.name) / WORK)


def records(home: Home) -> list[Record]:
    """All cycles, the oldest first. Raises CorruptArtifact by name."""
    return [_read(path) for path in sorted(home.cycles.glob(f"*/{RECORD}"))]


def unfinished(home: Home) -> Record | None:
    """The cycle that was killed or stopped before its end."""
    return next((record for record in reversed(records(home)) if not record.outcome), None)


def _read(path: Path) -> Record:
    try:
        content = json.loads(path.read_text())
        steps = [StepDone(**step) for step in content.pop("steps")]
        return Record(**content, steps=steps)
    except (ValueError, TypeError, KeyError) as error:
        hint = "move its folder away; a new cycle begins by itself"
        raise CorruptArtifact(f"{path} cannot be read: {error}", hint=hint) from error

"""What the served answers earned, from the home's own log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import polars as pl

from slipstream.config import Home
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import NotThere
from slipstream.evaluation.online import CONVERSIONS, Earned, measure
from slipstream.events.event import counts_text
from slipstream.events.impressions import DAY_US, HOUR_US, attribute, read_feedback_settings
from slipstream.events.sqlite_impressions import SqliteImpressionStore


@dataclass(frozen=True)
class OnlineReport:
    """earned: one for each group. unattributed: feedback that belongs to no answer, by reason."""

    earned: list[Earned]
    by: str
    feedback: int
    unattributed: dict[str, int]

    def lines(self) -> list[str]:
        lost = f"; not counted: {counts_text(self.unattributed)}" if self.unattributed else ""
        return [f"{self.feedback:,} events name their answer or bring a context{lost}"]

    def json(self) -> dict[str, Any]:
        """Plain values; an interval that is not known is null."""
        groups = [
            {
                self.by: e.group,
                "answers": e.answers,
                "people": e.people,
                "metrics": {name: _known(x.value) for name, x in e.estimates.items()} | e.whole,
                "intervals": {
                    name: [_known(x.interval().low), _known(x.interval().high)]
                    for name, x in e.estimates.items()
                },
            }
            for e in self.earned
        ]
        return {"by": self.by, "groups": groups, "feedback": self.feedback, "unattributed": self.unattributed}


def _known(value: float) -> float | None:
    return None if value != value else value


def report_online(
    home: Home,
    *,
    by: str = "release",
    days: int | None = None,
    k: int = 10,
    conversions: tuple[str, ...] = CONVERSIONS,
) -> OnlineReport:
    """Measure the answers of the last `days` (None: all that are kept), with feedback of any day.

    Raises NotThere without a log.
    """
    if not home.impressions.exists():
        hint = "`slipstream serve` logs its answers there"
        raise NotThere(f"{home.impressions} is not there: nothing was served from this home", hint=hint)
    with SqliteImpressionStore(home.impressions) as store:
        served, feedback = store.served(), store.feedback()
    window_us = int(read_feedback_settings(home.root).window_hours * HOUR_US)
    attributed = attribute(served, feedback, window_us)
    if days is not None:
        served = served.filter(pl.col("time_us") >= time.time_ns() // 1000 - days * DAY_US)
    snapshot = Snapshot.open(home.snapshot) if (home.snapshot / "manifest.json").exists() else None
    earned = measure(served, attributed, by=by, k=k, conversions=conversions, snapshot=snapshot)
    return OnlineReport(earned, by, feedback.height, attributed.unattributed)

"""What the served answers earned, from the home's own log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import polars as pl

from slipstream.config import Home
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import NotThere
from slipstream.evaluation.estimates import Estimate
from slipstream.evaluation.experiments import SampleRatio, sample_ratio
from slipstream.evaluation.online import CONVERSIONS, Earned, measure
from slipstream.events.event import counts_text
from slipstream.events.impressions import DAY_US, HOUR_US, attribute, read_feedback_settings
from slipstream.events.sqlite_impressions import SqliteImpressionStore
from slipstream.recommend.experiment import read_experiment


@dataclass(frozen=True)
class OnlineReport:
    """earned: one for each group. unattributed: feedback that belongs to no answer, by reason.

    ratio: whether the people of the running experiment split as they should; only by arm.
    """

    earned: list[Earned]
    by: str
    feedback: int
    unattributed: dict[str, int]
    ratio: SampleRatio | None = None

    def lines(self) -> list[str]:
        lost = f"; not counted: {counts_text(self.unattributed)}" if self.unattributed else ""
        told = [f"{self.feedback:,} events name their answer or bring a context{lost}"]
        if self.ratio is not None:
            seen = ", ".join(
                f"{arm} {count:,} people, {self.ratio.expected[arm]:,.0f} expected"
                for arm, count in self.ratio.seen.items()
            )
            fault = ": the split or the log is at fault, trust no difference" if self.ratio.mismatch else ""
            told.append(f"split: {seen} (p = {self.ratio.p_value:.2g}){fault}")
        return told + self._differences()

    def _differences(self) -> list[str]:
        """Of each arm to the first, for one look."""
        arms = [e for e in self.earned if e.group] if self.by == "arm" else []
        return [
            f"{arm.group} − {arms[0].group}: CTR {_signed(arm.estimates['CTR'] - arms[0].estimates['CTR'])}"
            for arm in arms[1:]
        ]

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
        ratio = None if self.ratio is None else vars(self.ratio) | {"mismatch": self.ratio.mismatch}
        told = {"by": self.by, "groups": groups, "feedback": self.feedback, "unattributed": self.unattributed}
        return told | ({} if ratio is None else {"sample_ratio": ratio})


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
    ratio = _sample_ratio(home, served) if by == "arm" else None
    return OnlineReport(earned, by, feedback.height, attributed.unattributed, ratio)


def _sample_ratio(home: Home, served: pl.DataFrame) -> SampleRatio | None:
    """Of the running experiment; who was answered by the live release instead counts for their arm."""
    running = read_experiment(home.root)
    if running is None:
        return None
    arm_of = {text: a for a in running.arms for text in (running.label(a), running.fallback_label(a))}
    people = served.filter(pl.col("arm").is_in(list(arm_of))).select(
        pl.col("arm").replace_strict(arm_of, return_dtype=pl.String), "person"
    )
    counts = people.unique().group_by("arm").len()
    return sample_ratio(running.split, {str(arm): int(count) for arm, count in counts.iter_rows()})


def _signed(difference: Estimate) -> str:
    seen = difference.interval()
    return f"{seen.mean:+.4f} [{seen.low:+.4f}, {seen.high:+.4f}]"

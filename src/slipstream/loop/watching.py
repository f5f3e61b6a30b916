"""After a promotion: do people take what the new release shows them, as they took what the old one did?

The old release's answers come from a control arm in the same hours (`watch.control`), or from the hours
before; then a change of the hour or of the day counts as one of the release.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import polars as pl

from slipstream.config import Home
from slipstream.evaluation.estimates import Estimate
from slipstream.evaluation.intervals import Interval
from slipstream.evaluation.online import Earned, measure
from slipstream.events.impressions import HOUR_US, attribute, read_feedback_settings
from slipstream.events.sqlite_impressions import SqliteImpressionStore
from slipstream.loop import control_arm
from slipstream.loop.policy import Watch
from slipstream.recommend.experiment import RunningExperiment


@dataclass(frozen=True)
class Look:
    """worse: beyond doubt. difference: of the metric, new − old, with an always-valid interval."""

    verdict: Literal["too few", "open", "worse"]
    answers: tuple[int, int]  # of the new release and the old
    difference: Interval | None
    why: str


def look(
    home: Home,
    watch: Watch,
    name: str,
    earlier: str,
    promoted_us: int,
    control: RunningExperiment | None = None,
) -> Look:
    """Compare the answers of `name` since its promotion with those of `earlier`: in the arms of `control`
    since then, or without it in the hours before.
    """
    if not home.impressions.exists():
        return Look("too few", (0, 0), None, "no answers were logged")
    start = promoted_us - int(watch.before_hours * HOUR_US)
    with SqliteImpressionStore(home.impressions) as store:
        served, feedback = store.served(start), store.feedback(start)
    since = pl.col("time_us") >= promoted_us
    own, old = pl.col("release") == name, pl.col("release") == earlier
    if control is not None:
        own &= since & (pl.col("arm") == control.label(control_arm.NEW))
        old &= since & (pl.col("arm") == control.label(control_arm.CONTROL))
    else:
        own, old = own & since, old & ~since
    window_us = int(read_feedback_settings(home.root).window_hours * HOUR_US)
    compared = served.filter(own | old)
    groups = {e.group: e for e in measure(compared, attribute(served, feedback, window_us), by="release")}
    new, before = groups.get(name), groups.get(earlier)
    answers = (new.answers if new else 0, before.answers if before else 0)
    if new is None or before is None or min(answers) < watch.answers:
        why = (
            f"{answers[0]:,} answers of {name} and {answers[1]:,} of {earlier}, {watch.answers:,} are needed"
        )
        return Look("too few", answers, None, why)
    return _compared(watch, new, before, answers)


def _compared(watch: Watch, new: Earned, before: Earned, answers: tuple[int, int]) -> Look:
    mine, theirs = new.estimates[watch.metric], before.estimates[watch.metric]
    difference = mine - theirs
    seen = _always_valid(difference, answers[0] / watch.answers)
    why = (
        f"{watch.metric} {mine.value:.4f} against {theirs.value:.4f} of {before.group}, "
        f"difference {seen.mean:+.4f} [{seen.low:+.4f}, {seen.high:+.4f}]"
    )
    worse = seen.high < -watch.tolerance * theirs.value
    return Look("worse" if worse else "open", answers, seen, why)


def _always_valid(difference: Estimate, times_minimum: float) -> Interval:
    """Tightest about where looking begins: a release that does harm should go soon."""
    planned = difference.variance * times_minimum
    if not planned > 0 or math.isnan(planned):
        return Interval(difference.value, -math.inf, math.inf)
    return difference.always_valid(planned)


def seconds_left(watch: Watch, promoted_us: int) -> float:
    """Of the watch, by the wall clock, but never more than all of it: that clock may have jumped.

    Asked once when a process begins to watch; from then on time is counted by a clock that does not jump.
    """
    whole_s = 60 * watch.minutes
    return min(whole_s, max(0.0, whole_s - (time.time() - promoted_us / 1e6)))


def wait_for_the_next_look(watch: Watch, left_s: float) -> None:
    time.sleep(max(0.0, min(watch.every_s, left_s)))

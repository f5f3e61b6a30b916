"""Trials side by side: differences with paired intervals, and averages over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from slipstream.errors import UsageError
from slipstream.evaluation.intervals import Interval, bootstrap_intervals, paired_interval
from slipstream.evaluation.metrics import mean
from slipstream.evaluation.result import Trial
from slipstream.evaluation.scores import ndcg_by_gap

BASELINE = "popularity"


@dataclass(frozen=True)
class Comparison:
    """One metric of one trial, and its difference to a baseline over the same users."""

    model: str
    board: str
    metric: str
    value: Interval
    baseline: str | None = None  # None: this is the baseline
    difference: Interval | None = None

    @property
    def verdict(self) -> str:
        """ "better", "worse", or "open" where the interval of the difference holds 0; "" for the baseline."""
        if self.difference is None:
            return ""
        if not self.difference.excludes_zero:
            return "open"
        return "better" if self.difference.low > 0 else "worse"


def compare(
    trials: Sequence[Trial], *, metric: str = "NDCG@10", against: str | None = None
) -> list[Comparison]:
    """One row per trial, board by board in the order given.

    against: the name of the baseline; else popularity where it is among them, else the board's first trial.
    Raises UsageError if trials of a board have other targets, or the metric or the baseline is not there.
    """
    rows = []
    for board in dict.fromkeys((t.data, t.board) for t in trials):
        group = [trial for trial in trials if (trial.data, trial.board) == board]
        base = _baseline(group, against)
        rows += [_compared(trial, base, metric) for trial in group]
    return rows


def _baseline(group: Sequence[Trial], against: str | None) -> Trial:
    wanted = against or BASELINE
    found = next((trial for trial in group if wanted in (trial.name, trial.model)), None)
    if found is None and against is not None:
        known = ", ".join(trial.name for trial in group)
        raise UsageError(
            f"no trial of {against} on board {group[0].board} to compare with", hint=f"known: {known}"
        )
    return found or group[0]


def _compared(trial: Trial, base: Trial, metric: str) -> Comparison:
    if metric not in trial.scores.values or metric not in trial.scores.intervals:
        known = ", ".join(trial.scores.values)
        raise UsageError(f"{trial.name} has no figure {metric} per user", hint=f"known: {known}")
    value = trial.scores.intervals[metric]
    if trial is base:
        return Comparison(trial.name, trial.board, metric, value)
    difference = paired_difference(trial, base, metric)
    return Comparison(trial.name, trial.board, metric, value, base.name, difference)


def paired_difference(a: Trial, b: Trial, metric: str = "NDCG@10") -> Interval:
    """The mean of a - b over the users of the board and its interval; they must have the same targets."""
    if a.targets_sha256 != b.targets_sha256 or not a.user_ids.equals(b.user_ids):
        raise UsageError(
            f"{a.name} and {b.name} were not asked for the same targets ({a.targets_sha256[:16]} and "
            f"{b.targets_sha256[:16]})",
            hint="compare trials of one board of the same data",
        )
    return paired_interval(a.scores.values[metric], b.scores.values[metric])


def averaged(trials: Sequence[Trial], *, label: str = "") -> Trial:
    """Several seeds of one model as one: each user's mean over the seeds, and intervals of that.

    Slates, costs and curve are those of the first seed; list-wide figures (coverage, Gini) are means.
    """
    if not trials:
        raise UsageError("an average needs at least one trial")
    first = trials[0]
    for other in trials[1:]:
        if (other.model, other.board, other.targets_sha256) != (
            first.model,
            first.board,
            first.targets_sha256,
        ):
            raise UsageError(
                f"{other.name} on {other.board} is not another seed of {first.name} on {first.board}"
            )
    names = [n for n in first.scores.values if all(n in t.scores.values for t in trials)]
    values = {n: np.mean([t.scores.values[n] for t in trials], axis=0) for n in names}
    metrics = {
        n: mean(values[n]) if n in values else float(np.mean([t.scores.metrics[n] for t in trials]))
        for n in first.scores.metrics
        if all(n in t.scores.metrics for t in trials)
    }
    scores = replace(
        first.scores,
        values=values,
        metrics=metrics,
        intervals=bootstrap_intervals(values),
        by_gap=ndcg_by_gap(first.scores.gap, values),
    )
    return replace(first, scores=scores, label=label or f"{first.name} ({len(trials)} seeds)", fitted=None)

"""All figures of one set of lists against one board: values per user, means, intervals, and the breakdown.

A trial and a file of foreign slates go through the same function, so they can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.queries import Holdout
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.splits import Board
from slipstream.evaluation.intervals import Interval, bootstrap_interval, bootstrap_intervals
from slipstream.evaluation.metrics import (
    ACCURACY,
    LITERATURE,
    ItemLists,
    Values,
    accuracy,
    average_popularity,
    coverage,
    gini,
    mean,
    novelty,
)

ROWS = 20
"""The fewest rows a list is asked for, whatever k is: Recall@20 is part of every result."""

STANDARD_CUT = 10
_GAPS = ("tie", "< 1 min", "< 1 h", "longer")
_GAP_EDGES_US = (1, 60_000_000, 3_600_000_000)


@dataclass(frozen=True)
class Slice:
    """NDCG@10 of the users whose target came so long after their last event."""

    name: str
    users: int
    ndcg: Interval


@dataclass(frozen=True)
class Scores:
    """values: per user of the board, in its order, [Q]; metrics: their means and the list-wide figures."""

    values: Mapping[str, Values]
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    gap: NDArray[np.int64] | None = None  # [Q], the slice of each user; None where there is no clock
    by_gap: tuple[Slice, ...] = ()
    users_without_list: int = 0


def cutoffs(k: int) -> list[int]:
    """k, and the two that every table shows."""
    return sorted({STANDARD_CUT, k, ROWS})


def score_lists(board: Board, items: ItemLists, *, k: int = 10, seed: int = 0) -> Scores:
    """Measure the lists [Q, K] of the board's test queries. Metrics that are not defined are left out."""
    metrics = {**ACCURACY, **LITERATURE} if board.name == "split" else ACCURACY
    values = accuracy(items, board.test, cutoffs(k), metrics)
    values.update(_what_lists_are_made_of(board, items, k))
    intervals = bootstrap_intervals(values, seed=seed)
    possible = board.past.item_count if board.candidates is None else int(board.candidates.sum())
    whole = {f"Coverage@{k}": coverage(items, k, possible), f"Gini@{k}": gini(items, k, possible)}
    means = {name: mean(column) for name, column in values.items()} | whole
    gap = _gap_slices(board)
    return Scores(
        values=values,
        metrics={name: value for name, value in means.items() if not np.isnan(value)},
        intervals={name: i for name, i in intervals.items() if not np.isnan(i.mean)},
        gap=gap,
        by_gap=ndcg_by_gap(gap, values, seed=seed),
        users_without_list=int((items < 0).all(axis=1).sum()),
    )


def _what_lists_are_made_of(board: Board, items: ItemLists, k: int) -> dict[str, Values]:
    """Novelty and popularity against what was known at the time of the test."""
    touched, people = popularity_in(board.past)
    return {
        f"Novelty@{k}": novelty(items, k, touched, people),
        f"AveragePopularity@{k}": average_popularity(items, k, touched, people),
    }


def popularity_in(past: Snapshot) -> tuple[NDArray[np.int64], int]:
    """(people who touched each item, [I]; people with any event)."""
    touched = np.bincount(past.matrix().indices, minlength=past.item_count).astype(np.int64)
    return touched, int((np.diff(past.offsets) > 0).sum())


def _gap_slices(board: Board) -> NDArray[np.int64] | None:
    """The slice of each user, [Q]; only where one target follows a history with a clock."""
    if board.gap_us is None or not board.name.startswith("loo"):
        return None
    return np.digitize(board.gap_us, _GAP_EDGES_US)


def ndcg_by_gap(
    gap: NDArray[np.int64] | None, values: Mapping[str, Values], *, seed: int = 0
) -> tuple[Slice, ...]:
    """NDCG@10 of each slice that has users: a tie with the event before, within a minute, an hour, later."""
    if gap is None:
        return ()
    ndcg = values[f"NDCG@{STANDARD_CUT}"]
    return tuple(
        Slice(name, int((gap == g).sum()), bootstrap_interval(ndcg[gap == g], seed=seed))
        for g, name in enumerate(_GAPS)
        if (gap == g).any()
    )


def means_of(lists: ItemLists, holdout: Holdout, k: int) -> dict[str, float]:
    """Only the accuracy means, as on validation."""
    found = {name: mean(column) for name, column in accuracy(lists, holdout, cutoffs(k)).items()}
    return {name: value for name, value in found.items() if not np.isnan(value)}


def interval_pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]

"""The best K of many scores: sorted, ties by item number, excluded items never appear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOTHING = -1


def top_k(
    scores: NDArray[np.float32], k: int, *, excluded: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Items [Q, K] and scores [Q, K] of the K best per row of `scores` [Q, I].

    NaN and -inf are no answer; a row with fewer than K answers is padded with item -1 and score -inf.
    excluded: [Q, I] or [I], True where an item must not appear. O(Q·I) time, O(Q·K) memory beside a copy.
    """
    usable = np.where(np.isnan(scores), -np.inf, scores).astype(np.float32)
    if excluded is not None:
        usable[np.broadcast_to(excluded, usable.shape)] = -np.inf
    queries, items = usable.shape
    width = min(k, items)
    if width == 0:
        return np.full((queries, k), NOTHING, np.int32), np.full((queries, k), -np.inf, np.float32)
    best = _best_columns(usable, width)
    values = np.take_along_axis(usable, best, axis=1)
    found = values > -np.inf
    answer = np.full((queries, k), NOTHING, np.int32)
    answer[:, :width] = np.where(found, best, NOTHING)
    strength = np.full((queries, k), -np.inf, np.float32)
    strength[:, :width] = np.where(found, values, -np.inf)
    return answer, strength


def _best_columns(usable: NDArray[np.float32], width: int) -> NDArray[np.int64]:
    """The `width` largest per row, by (-score, item). argpartition alone splits a tie at the edge at random."""
    items = usable.shape[1]
    if width * 4 >= items:
        return np.argsort(-usable, axis=1, kind="stable")[:, :width]
    edge = -np.partition(-usable, width - 1, axis=1)[:, width - 1]
    rows = []
    for row, limit in zip(usable, edge, strict=True):
        candidates = np.flatnonzero(row >= limit) if limit > -np.inf else np.argsort(-row, kind="stable")
        rows.append(candidates[np.argsort(-row[candidates], kind="stable")][:width])
    return np.stack(rows)


def top_k_reference(
    scores: NDArray[np.float32], k: int, *, excluded: NDArray[np.bool_] | None = None
) -> list[list[tuple[int, float]]]:
    """The slow, obvious form: the oracle of the tests."""
    answers = []
    for q, row in enumerate(scores):
        mask = np.zeros(len(row), bool) if excluded is None else np.broadcast_to(excluded, scores.shape)[q]
        pairs = [(i, float(s)) for i, s in enumerate(row) if not mask[i] and not np.isnan(s) and s > -np.inf]
        answers.append(sorted(pairs, key=lambda p: (-p[1], p[0]))[:k])
    return answers

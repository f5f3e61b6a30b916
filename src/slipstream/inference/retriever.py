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
    usable = np.fmax(scores, np.float32(-np.inf), dtype=np.float32)  # a copy; fmax turns NaN into -inf
    if excluded is not None:
        np.copyto(usable, np.float32(-np.inf), where=excluded)
    queries, items = usable.shape
    width = min(k, items)
    if width == 0:
        return np.full((queries, k), NOTHING, np.int32), np.full((queries, k), -np.inf, np.float32)
    best = _best_columns(usable, width)
    values = np.where(best >= 0, np.take_along_axis(usable, np.maximum(best, 0), axis=1), -np.inf)
    found = values > -np.inf
    answer = np.full((queries, k), NOTHING, np.int32)
    answer[:, :width] = np.where(found, best, NOTHING)
    strength = np.full((queries, k), -np.inf, np.float32)
    strength[:, :width] = np.where(found, values, -np.inf)
    return answer, strength


LONGEST_BLOCK, SHORTEST_BLOCK = 64, 4
"""Columns whose maximum is taken first: the cost is one pass over all, plus a partition of the maxima."""


def _best_columns(usable: NDArray[np.float32], width: int) -> NDArray[np.int64]:
    """The `width` largest per row of [Q, I], by (-score, item); -1 where only -inf is left.

    A partition alone splits a tie at the edge at random. Here the width-th largest block maximum is a floor:
    at least `width` columns reach it, and those above it lie in fewer than `width` blocks. Only they are
    sorted, with the first `width` of those that equal it.
    """
    queries, items = usable.shape
    block = min(LONGEST_BLOCK, items // (3 * width))
    if block < SHORTEST_BLOCK:
        return np.argsort(-usable, axis=1, kind="stable")[:, :width]
    blocks = items // block
    peaks = usable[:, : blocks * block].reshape(queries, blocks, block).max(axis=2)
    floor = np.partition(peaks, blocks - width, axis=1)[:, blocks - width, None]
    above = np.flatnonzero(usable > floor)
    equal = [np.flatnonzero(row)[:width] for row in (usable == floor) & (floor > -np.inf)]
    row = np.concatenate([above // items, np.repeat(np.arange(queries), [len(e) for e in equal])])
    column = np.concatenate([above % items, *equal])
    order = np.lexsort((column, -usable[row, column], row))
    row, column = row[order], column[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(queries))[row]
    best = np.full((queries, width), -1, np.int64)
    best[row[place < width], place[place < width]] = column[place < width]
    return best


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

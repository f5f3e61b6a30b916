"""A person's past as one sparse row: which items, and how much each event still counts.

Shared by the models whose score is a sum over the events of the history. The weight of an event depends on
its rank from the end only (0 for the newest), so a new event shifts the others by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries

SMALLEST = 1e-3
"""An event that counts less than this (the newest counts 1) is left out: it costs time and moves nothing."""

LONG_HALF_LIFE = 30.0
"""Events; the slow part of the memory where there is one."""


@dataclass(frozen=True)
class Memory:
    """How long an event counts: 0.5^(rank / half_life) + long_share · 0.5^(rank / 30).

    half_life: in events; 0 for no forgetting at all, as in data without order.
    long_share: how much the slow part weighs beside the fast one.
    """

    half_life: float = 0.0
    long_share: float = 0.0

    def weights(self, rank: NDArray[np.int64]) -> NDArray[np.float32]:
        """The weight of each event by its rank from the end; 0 where it is not worth counting."""
        if self.half_life == 0:
            return np.ones(len(rank), np.float32)
        weight = 0.5 ** (rank / self.half_life)
        if self.long_share:
            weight = (weight + self.long_share * 0.5 ** (rank / LONG_HALF_LIFE)) / (1 + self.long_share)
        return np.where(weight < SMALLEST, 0.0, weight).astype(np.float32)


def event_weights(queries: Queries, known: NDArray[np.bool_], memory: Memory) -> NDArray[np.float32]:
    """The weight of each history event, [H]; 0 for an item that is UNKNOWN or not `known` [I].

    Events that mean nothing to the model do not push the others back.
    """
    usable = known_events(queries, known)
    # rank from the end among the usable events of the same query
    after = np.concatenate([np.cumsum(usable[::-1])[::-1], [0]])
    rank = after[:-1] - np.repeat(after[queries.offsets[1:]], np.diff(queries.offsets)) - 1
    weights = np.zeros(len(queries.item), np.float32)
    weights[usable] = memory.weights(rank[usable])
    return weights


def known_events(queries: Queries, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[H], True where the event is about an item that the model has met."""
    inside = (queries.item >= 0) & (queries.item < len(known))
    usable = np.zeros(len(queries.item), bool)
    usable[inside] = known[queries.item[inside]]
    return usable


def history_matrix(queries: Queries, known: NDArray[np.bool_], memory: Memory) -> sp.csr_matrix:
    """[Q, I] float32: the weights of each query's events, added up per item."""
    weights = event_weights(queries, known, memory)
    used = weights > 0
    matrix = sp.csr_matrix(
        (weights[used], (queries.rows()[used], queries.item[used])), shape=(len(queries), len(known))
    )
    return matrix


def silence_unknown(
    scores: NDArray[np.float32], queries: Queries, known: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """NaN for items [I] not `known`, and for queries without one known event: nothing to say. In place."""
    scores[:, ~known] = np.nan
    met = np.zeros(len(queries), bool)
    met[queries.rows()[known_events(queries, known)]] = True
    scores[~met] = np.nan
    return scores


def keep_largest(matrix: sp.csr_matrix, limit: int) -> sp.csr_matrix:
    """The `limit` largest values of each row; ties keep the lower column. O(nnz)."""
    counts = np.diff(matrix.indptr)
    if not len(counts) or counts.max() <= limit:
        return matrix
    matrix.sort_indices()
    keep = np.ones(matrix.nnz, bool)
    for row in np.flatnonzero(counts > limit):
        start, stop = matrix.indptr[row], matrix.indptr[row + 1]
        keep[start:stop] = _largest(matrix.data[start:stop], limit)
    row_of = np.repeat(np.arange(matrix.shape[0]), counts)
    return sp.csr_matrix((matrix.data[keep], (row_of[keep], matrix.indices[keep])), shape=matrix.shape)


def _largest(values: NDArray[np.float32], limit: int) -> NDArray[np.bool_]:
    """True at the `limit` largest; of equal values at the edge the first ones."""
    edge = np.partition(values, len(values) - limit)[len(values) - limit]
    chosen = values > edge
    level = np.flatnonzero(values == edge)
    chosen[level[: limit - int(chosen.sum())]] = True
    return np.asarray(chosen)

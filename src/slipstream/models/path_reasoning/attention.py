"""How much each event of a history counts: the gamma of a path's first hop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries

FORGOTTEN = 1e-3  # an event that counts less than this beside the newest is no longer walked over


@dataclass(frozen=True)
class Starts:
    """One asker's first hops: distinct nodes, ascending, and their weights."""

    node: NDArray[np.int64]  # [S]
    weight: NDArray[np.float64]  # [S]

    def without(self, node: int) -> Starts:
        kept = self.node != node
        return Starts(self.node[kept], self.weight[kept])


def starts_of(history: NDArray[np.integer], items: int, memory: float) -> Starts:
    """`attention` of one history, without the cost of matrices."""
    known = history[(history >= 0) & (history < items)].astype(np.int64)
    if memory > 0:
        known = known[-int(np.ceil(-memory * np.log(FORGOTTEN)) + 1) :]  # older ones are forgotten
        weight = np.exp(-np.arange(len(known) - 1, -1, -1) / memory)
        kept = weight >= FORGOTTEN
        known, weight = known[kept], weight[kept]
    else:
        weight = np.ones(len(known))
    if not len(known):
        return Starts(known, weight)
    order = np.argsort(known, kind="stable")
    node = known[order]
    first = np.flatnonzero(np.concatenate([[True], node[1:] != node[:-1]]))
    return Starts(node[first], np.add.reduceat(weight[order] / weight.sum(), first))


def event_ranks(queries: Queries, items: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(known [H], rank from the end among the known events of its query, 0 = newest [H])."""
    known = (queries.item >= 0) & (queries.item < items)
    after = np.concatenate([np.cumsum(known[::-1])[::-1], [0]])
    rank = after[:-1] - np.repeat(after[queries.offsets[1:]], np.diff(queries.offsets)) - 1
    return known, rank


def attention(queries: Queries, items: int, memory: float) -> sp.csr_matrix:
    """[Q, items] float64: the weights of each query's events, exp(-rank / memory), adding up to 1.

    memory: in events; 0: all alike. Repeated items add up. Events of unknown items count nothing.
    """
    known, rank = event_ranks(queries, items)
    weight = np.exp(-rank / memory) if memory > 0 else np.ones(len(rank))
    weight[~known | (weight < FORGOTTEN)] = 0.0
    rows, used = queries.rows(), weight > 0
    total = np.bincount(rows, weight, minlength=len(queries))
    shares = weight[used] / total[rows[used]]
    offsets = np.zeros(len(queries) + 1, np.int32)
    np.cumsum(np.bincount(rows[used], minlength=len(queries)), out=offsets[1:])
    matrix = sp.csr_matrix((shares, queries.item[used], offsets), shape=(len(queries), items))
    matrix.sum_duplicates()
    return matrix


def rows_of_askers(queries: Queries, people: sp.csr_matrix) -> sp.csr_matrix:
    """[Q, A]: the row of each person who asks in `people` [U, A]; nothing for a person nobody knows."""
    known = (queries.user >= 0) & (queries.user < people.shape[0])
    if not people.shape[0]:
        return sp.csr_matrix((len(queries), people.shape[1]))
    rows = sp.csr_matrix(people[np.where(known, queries.user, 0)])
    return sp.csr_matrix(sp.diags(known.astype(np.float64)) @ rows)

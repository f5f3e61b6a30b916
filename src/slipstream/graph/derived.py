"""Relations between items that behaviour draws: `similar_to` and `next`.

Both are ridge regressions in closed form whose positive coefficients become edges, so that collaborative
signal enters the same algebra of paths as facts do.

- `similar_to`, taken by the same people: each item regressed on the others over all people (EASE, Steck 2019:
  zero diagonal).
- `next`, taken soon after: what people took in the near future regressed on a decaying sum of their recent
  past, over all moments of all histories (the idea of SLIT, Choi et al. 2021; there within sessions and with
  other weights). With weights a^gap for the past and b^gap for the future, both moment matrices are sums over
  pairs of events at each gap.

Up to DENSE_ITEMS items the systems are solved whole; beyond, each item is regressed on the items it occurs
with most (by cosine), which needs no I x I memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import Field

from slipstream.config import Progress, Settings, silent
from slipstream.dataset.snapshot import Snapshot

DENSE_ITEMS = 6_000  # three float32 matrices of that side are 430 MB
_LARGEST_SUPPORT = (
    99  # from 100 on OpenBLAS solves each small system with threads, up to 70 times slower here
)
_CHUNK_PAIRS = 4_000_000
_LONGEST_HISTORY = 1_000  # events of a person that count for `similar_to`, the latest ones


class SimilarSettings(Settings):
    """`similar_to` edges."""

    ridge: float = 500.0  # pseudo-people without this item
    keep: int = 150  # edges kept per item, the strongest
    support: int = Field(96, ge=1, le=_LARGEST_SUPPORT)  # items one is regressed on where not all can be


class NextSettings(Settings):
    """`next` edges."""

    past: float = 4.0  # a past event counts exp(-1/past) less per step
    future: float = 2.0  # a future event counts exp(-1/future) less per step
    ridge: float = 100.0  # in events of an item
    keep: int = 150
    support: int = Field(96, ge=1, le=_LARGEST_SUPPORT)
    most_pairs: int = 60_000_000  # pairs of events looked at; the reach shrinks to stay below


@dataclass(frozen=True)
class DerivedEdges:
    """matrix: [I, I] float64, the strength of the edge from one item to another, >= 0, no diagonal.

    lost: the share of all positive strength that was left out because only `keep` edges an item are kept.
    """

    matrix: sp.csr_matrix
    lost: float


def similar_edges(train: Snapshot, settings: SimilarSettings, progress: Progress = silent) -> DerivedEdges:
    """`similar_to` edges.

    Cost O(I^3) up to DENSE_ITEMS, else O(I support^3) and the pairs of items in all histories.
    """
    matrix = _recent_matrix(train)
    items = train.item_count
    progress(0, 2, "similar_to: counting")
    gram = (matrix.T @ matrix).astype(np.float32)
    progress(1, 2, "similar_to: solving")
    if items <= DENSE_ITEMS:
        dense = gram.toarray()
        dense[np.diag_indices(items)] += settings.ridge
        inverse = scipy.linalg.inv(dense, overwrite_a=True, check_finite=False, assume_a="pos")
        weights = inverse / -np.diag(inverse)
        return _strongest(weights, settings.keep)
    diagonal = gram.diagonal() + settings.ridge
    columns = matrix.tocsc()

    def block(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        some = columns[
            :, chosen
        ]  # counting again is several times faster than looking up: rows of gram are long
        square = (some.T @ some).toarray().astype(np.float64)
        square[np.diag_indices(len(chosen))] = diagonal[chosen]
        return np.asarray(square)

    # symmetric: its rows are its columns
    targets = sp.csc_matrix((gram.data, gram.indices, gram.indptr), shape=gram.shape)
    return _local_ridge(targets, diagonal, settings.support, settings.keep, block, progress)


def next_edges(train: Snapshot, settings: NextSettings, progress: Progress = silent) -> DerivedEdges:
    """`next` edges, from an item to one taken soon after.

    Cost: `most_pairs` or events times reach for counting, and O(I^3) or O(I support^3) for solving.
    """
    items = train.item_count
    moments = _moments(train, settings, progress)
    progress(1, 2, "next: solving")
    fade = np.exp(-1.0 / settings.past)
    diagonal = (train.item_counts + settings.ridge) / (1 - fade * fade)
    if items <= DENSE_ITEMS:
        past, future = (np.asarray(m, np.float32) for m in (moments.past, moments.future))
        past[np.diag_indices(items)] += diagonal
        weights = scipy.linalg.solve(past, future, assume_a="pos", overwrite_a=True, check_finite=False)
        return _strongest(weights, settings.keep)
    gram, place = sp.csr_matrix(moments.past), np.full(items, -1, np.int64)

    def block(chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        return _block(gram, chosen, diagonal, place)

    targets = sp.csc_matrix(moments.future)
    return _local_ridge(targets, diagonal, settings.support, settings.keep, block, progress)


def _recent_matrix(train: Snapshot) -> sp.csr_matrix:
    """Binary [U, I] of everybody's latest events."""
    lengths = np.diff(train.offsets)
    if not len(lengths) or lengths.max() <= _LONGEST_HISTORY:
        return train.matrix()
    from_end = np.repeat(train.offsets[1:], lengths) - np.arange(train.event_count)
    return train.keep(from_end <= _LONGEST_HISTORY).matrix()


@dataclass(frozen=True)
class _Moments:
    """past: [I, I] symmetric, no diagonal; future: [I, I], row earlier, column later. Dense or sparse."""

    past: NDArray[np.float32] | sp.csr_matrix
    future: NDArray[np.float32] | sp.csr_matrix


def gap_weights(settings: NextSettings, reach: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(past, future) weights of a pair of events by their gap 0 .. reach.

    Between two events at gap g lie the moments whose past holds the first: two past events meet with
    sum_m a^m a^(m+g) = a^g / (1 - a^2); a past and a future event with sum_{m<g} a^m b^(g-1-m).
    """
    a, b = np.exp(-1.0 / settings.past), np.exp(-1.0 / settings.future)
    gap = np.arange(reach + 1, dtype=np.float64)
    future = (a**gap - b**gap) / (a - b) if abs(a - b) > 1e-9 else gap * a ** np.maximum(gap - 1, 0)
    return a**gap / (1 - a * a), future


def reach_of(settings: NextSettings, events: int) -> int:
    """Steps between two events that still count: until the weight is 2 %, or `most_pairs` is used up."""
    natural = int(np.ceil(4 * max(settings.past, settings.future)))
    return max(3, min(natural, settings.most_pairs // max(1, events)))


def _moments(train: Snapshot, settings: NextSettings, progress: Progress) -> _Moments:
    items, events = train.item_count, train.event_count
    reach = reach_of(settings, events)
    past_weight, future_weight = gap_weights(settings, reach)
    dense = items <= DENSE_ITEMS
    sums = _DensePairs(items) if dense else _SparsePairs(items)
    item, user = np.asarray(train.item), train.user
    for gap in range(1, min(reach, events - 1) + 1):
        progress(gap, reach, "next: counting")
        together = user[:-gap] == user[gap:]
        sums.add(item[:-gap][together], item[gap:][together], past_weight[gap], future_weight[gap])
    return sums.moments()


class _DensePairs:
    def __init__(self, items: int) -> None:
        self.items = items
        self.past = np.zeros(items * items, np.float32)
        self.future = np.zeros(items * items, np.float32)
        self.waiting: list[tuple[NDArray[np.int64], float, float]] = []
        self.count = 0

    def add(self, first: NDArray[np.int32], second: NDArray[np.int32], past: float, future: float) -> None:
        self.waiting.append((first.astype(np.int64) * self.items + second, past, future))
        self.count += len(first)
        if self.count >= _CHUNK_PAIRS:
            self._flush()

    def _flush(self) -> None:
        if not self.waiting:
            return
        keys = np.concatenate([k for k, _, _ in self.waiting])
        sizes = [len(k) for k, _, _ in self.waiting]
        for place, target in ((1, self.past), (2, self.future)):
            weights = np.repeat([w[place] for w in self.waiting], sizes)
            target += np.bincount(keys, weights, minlength=len(target))
        self.waiting, self.count = [], 0

    def moments(self) -> _Moments:
        self._flush()
        past = self.past.reshape(self.items, self.items)
        past = past + past.T
        np.fill_diagonal(past, 0)  # a repeated item: its own count is on the diagonal already
        return _Moments(past, self.future.reshape(self.items, self.items))


class _SparsePairs:
    def __init__(self, items: int) -> None:
        self.items = items
        self.past = sp.csr_matrix((items, items), dtype=np.float32)
        self.future = sp.csr_matrix((items, items), dtype=np.float32)

    def add(self, first: NDArray[np.int32], second: NDArray[np.int32], past: float, future: float) -> None:
        ones = np.ones(len(first), np.float32)
        pairs = sp.csr_matrix((ones, (first, second)), shape=(self.items, self.items))
        self.past = self.past + pairs * np.float32(past)
        self.future = self.future + pairs * np.float32(future)

    def moments(self) -> _Moments:
        past = (self.past + self.past.T).tocsr()
        past.setdiag(0)
        past.eliminate_zeros()
        return _Moments(past, self.future)


def _strongest(weights: NDArray[np.float32], keep: int) -> DerivedEdges:
    """The `keep` largest positive entries of each row, diagonal excluded; ties by column."""
    np.fill_diagonal(weights, 0)
    items = len(weights)
    keep = min(keep, max(1, items - 1))
    columns = (
        np.argpartition(-weights, keep - 1, axis=1)[:, :keep] if items else np.zeros((0, keep), np.int64)
    )
    columns.sort(axis=1)
    values = np.take_along_axis(weights, columns, axis=1)
    rows = np.repeat(np.arange(items), keep)
    good = values.ravel() > 0
    cells = (values.ravel()[good].astype(np.float64), (rows[good], columns.ravel()[good]))
    matrix = sp.csr_matrix(cells, shape=(items, items))
    return DerivedEdges(matrix, _lost(matrix, float(np.maximum(weights, 0).sum(dtype=np.float64))))


def _lost(kept: sp.csr_matrix, whole: float) -> float:
    return max(0.0, 1.0 - float(kept.sum()) / whole) if whole > 0 else 0.0


def _local_ridge(
    targets: sp.csc_matrix,
    diagonal: NDArray[np.float64],
    support: int,
    keep: int,
    block: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    progress: Progress,
) -> DerivedEdges:
    """Each column of `targets` regressed on its `support` strongest rows. block: the system of some rows."""
    items = targets.shape[0]
    parts: list[tuple[NDArray[np.int64], NDArray[np.floating]]] = []
    for item in range(items):
        if item % 2048 == 0:
            progress(item, items, "solving item by item")
        chosen, wanted = _support_of(targets, item, diagonal, support)
        if len(chosen):
            weights = np.linalg.solve(block(chosen), wanted)
            parts.append((chosen[weights > 0], weights[weights > 0]))
        else:
            parts.append((chosen, wanted))
    columns = np.repeat(np.arange(items), [len(c) for c, _ in parts])
    rows = np.concatenate([c for c, _ in parts]) if parts else np.zeros(0, np.int64)
    values = np.concatenate([v for _, v in parts]) if parts else np.zeros(0)
    kept = _strongest_of(sp.csr_matrix((values, (rows, columns)), shape=(items, items)), keep)
    return DerivedEdges(kept, _lost(kept, float(values.sum())))


def _support_of(
    targets: sp.csc_matrix, item: int, diagonal: NDArray[np.float64], support: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    begin, end = targets.indptr[item], targets.indptr[item + 1]
    rows, values = targets.indices[begin:end].astype(np.int64), targets.data[begin:end].astype(np.float64)
    other = rows != item
    rows, values = rows[other], values[other]
    if len(rows) > support:
        order = np.lexsort((rows, -values / np.sqrt(diagonal[rows])))[:support]
        order.sort()
        rows, values = rows[order], values[order]
    return rows, values


def _block(
    gram: sp.csr_matrix, chosen: NDArray[np.int64], diagonal: NDArray[np.float64], place: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The square of `gram` at `chosen`, with its diagonal. place: scratch of -1, left as found."""
    place[chosen] = np.arange(len(chosen))
    lengths = gram.indptr[chosen + 1] - gram.indptr[chosen]
    starts = np.repeat(gram.indptr[chosen] - (np.cumsum(lengths) - lengths), lengths)
    cells = starts + np.arange(len(starts))
    column = place[gram.indices[cells]]
    inside = column >= 0
    block = np.zeros((len(chosen), len(chosen)))
    block[np.repeat(np.arange(len(chosen)), lengths)[inside], column[inside]] = gram.data[cells[inside]]
    block[np.diag_indices(len(chosen))] = diagonal[chosen]
    place[chosen] = -1
    return block


def _strongest_of(matrix: sp.csr_matrix, keep: int) -> sp.csr_matrix:
    """The `keep` largest entries of each row; ties by column."""
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    rank = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr))
    picked = np.sort(order[rank < keep])
    return sp.csr_matrix((matrix.data[picked], (rows[picked], matrix.indices[picked])), shape=matrix.shape)

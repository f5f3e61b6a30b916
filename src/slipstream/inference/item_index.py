"""The exact best K items of a query vector, from an int8 copy of the item table.

`_scan.c` reads the copy once and scores exactly only what can still be an answer; without it NumPy does the
same from the table. Both give the same answer, bit by bit, and that is brute force's: the score of an item is
the float64 dot product of the float32 vectors, in the order of `exact_scores`, rounded to float32; answers
are sorted by (-score, item). Packed items (`ItemRows`) are unpacked one by one where they are scored exactly:
their answers are, bit by bit, those of a float32 table with the same numbers.

Source: the bound |q·x − q̂·x̂| ≤ ‖q‖‖e‖ + ‖f‖‖x̂‖ with x = x̂ + e, q = q̂ + f (triangle inequality and
Cauchy–Schwarz), and the stop by descending norms of Teflioudi et al. 2015 (LEMP).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.inference.item_rows import ItemRows
from slipstream.inference.retriever import NOTHING, top_k
from slipstream.kernels import Kernel, kernel

SCAN = "slipstream.inference._scan"
LARGEST = np.float32(1e15)
"""A vector with a larger number, or with NaN, has no score: products of such could leave float32."""
SMALLEST = 1e-30
"""Vectors below are packed as zeros with all of them as error: a scale would have too few bits."""
BLOCK, BYTES, ALIGNMENT = 32, 4, 64
MOST_DIMENSIONS = 1024  # of the kernel: sums of products of bytes stay within the 24 bits of a float32
PART = 1 << 16  # items packed at once: some tens of MB of float64
MOST_SCORES = 1 << 21  # float32 products held at once without the kernel: 8 MB


@dataclass(frozen=True)
class Packed:
    """Items in descending order of norm in blocks of 32; see _scan.c for the layout.

    64 + 8.4 bytes an item at 64 dimensions.
    """

    lines: NDArray[np.uint8]  # [blocks, D/4, 32, 4], v + 128
    scale: NDArray[np.float32]  # [slots]
    error: NDArray[np.float32]  # [blocks] largest |x - scale · v|, rounded up
    size: NDArray[np.float32]  # [blocks] largest |scale · v|, rounded up
    norm: NDArray[np.float32]  # [blocks] largest |x| from here on, rounded up
    number: NDArray[np.int32]  # [slots] item number, -1 in an empty slot


class ItemIndex:
    """The vectors of a model's items, ready to be searched. Thread-safe.

    vectors: [I, D] float32 or packed, kept as they are (they may be memory-mapped: only rows that come near
    an answer are read). known: [I], False for items that are never an answer. Items with a number that is not
    finite or beyond LARGEST are none either.
    """

    def __init__(
        self,
        vectors: NDArray[np.float32] | ItemRows,
        *,
        known: NDArray[np.bool_] | None = None,
        kernel_choice: str | None = None,
    ) -> None:
        self._rows = vectors if isinstance(vectors, ItemRows) else np.ascontiguousarray(vectors, np.float32)
        self.items, self.dim = self._rows.shape
        self._answers = _in_parts(usable_rows, self._rows, np.bool_)
        if known is not None:
            self._answers &= known
        self._kernel: Kernel | None = kernel(SCAN, kernel_choice) if self.dim <= MOST_DIMENSIONS else None
        self.searched = 0
        """Queries answered so far."""
        self.rescored = 0
        """Items scored exactly for them: K and a little more each where the bounds are good."""
        self.nbytes = 0
        """Of the int8 copy, beside the vectors."""
        if self._kernel is not None:
            packed = pack(self._rows, self._answers)
            self.nbytes = sum(int(part.nbytes) for part in vars(packed).values())
            self._table = self._open(self._kernel, packed)
        else:
            norms = _in_parts(_norms, self._rows, np.float64)
            self._largest_norm = float(norms.max(initial=0.0, where=self._answers))

    @property
    def answers(self) -> NDArray[np.bool_]:
        """[I], True for items that may be an answer."""
        return self._answers

    def _open(self, compiled: Kernel, packed: Packed) -> object:
        if not isinstance(self._rows, ItemRows):
            return compiled.module.open(*vars(packed).values(), self._rows, self.items, self.dim)
        form, codes, scale, factor = self._rows.for_kernel()
        copy = vars(packed).values()
        return compiled.module.open(*copy, codes, self.items, self.dim, form, scale, factor)

    def search(
        self, queries: NDArray[np.float32], k: int, *, excluded: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Items [Q, K] and scores [Q, K] of the K best, best first, for queries [Q, D].

        excluded: [I] or [Q, I], True where an item must not appear. Fewer than K answers are padded with item
        -1 and score -inf; a query that is not finite has none. One pass over the table for all queries.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        items = np.empty((len(queries), k), np.int32)
        scores = np.empty((len(queries), k), np.float32)
        self.searched += len(queries)
        if not items.size:
            return items, scores
        if self._kernel is None:
            self._search_by_numpy(queries, items, scores, excluded)
            return items, scores
        if excluded is not None:
            excluded = np.ascontiguousarray(excluded)
        self.rescored += self._kernel.module.search(
            self._table, self._kernel.level, queries, len(queries), k, excluded, items, scores
        )
        return items, scores

    def without_kernel(self) -> ItemIndex:
        """The same items, searched by NumPy without the int8 copy: the same answers."""
        return ItemIndex(self._rows, known=self._answers, kernel_choice="numpy")

    def scores(self, query: NDArray[np.float32], items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[N] exact scores of some items for a query [D] that is finite; NaN for items that are no answer."""
        found = np.full(len(items), np.nan, np.float32)
        answers = self._answers[items]
        found[answers] = exact_scores(query, self._rows[items[answers]])
        return found

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """[D], of all vectors that may be an answer; times a query: their mean score."""
        if not self._answers.any():
            return np.zeros(self.dim)
        total = np.zeros(self.dim)
        for start in range(0, self.items, PART):
            part = slice(start, start + PART)
            total += self._rows[part].sum(0, np.float64, where=self._answers[part, None])
        found: NDArray[np.float64] = total / self._answers.sum()
        return found

    def _search_by_numpy(
        self,
        queries: NDArray[np.float32],
        items: NDArray[np.int32],
        scores: NDArray[np.float32],
        excluded: NDArray[np.bool_] | None,
    ) -> None:
        """float32 products first; exactly scored is what is within their rounding of the K-th best."""
        items.fill(NOTHING)
        scores.fill(-np.inf)
        size = max(1, MOST_SCORES // max(self.items, 1))
        for start in range(0, len(queries), size):
            part = slice(start, start + size)
            allowed = usable_rows(queries[part])[:, None] & self._answers
            if excluded is not None:
                allowed &= ~(excluded if excluded.ndim == 1 else excluded[part])
            row, item = self._near_the_best(queries[part], allowed, items.shape[1])
            exact = _exact_pairs(queries[part], self._rows, row, item)
            self.rescored += len(row)
            order = np.lexsort((item, -exact, row))
            row, item, exact = row[order], item[order], exact[order]
            place = np.arange(len(row)) - np.searchsorted(row, np.arange(len(allowed)))[row]
            best = place < items.shape[1]
            items[part][row[best], place[best]] = item[best]
            scores[part][row[best], place[best]] = exact[best]

    def _near_the_best(
        self, queries: NDArray[np.float32], allowed: NDArray[np.bool_], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row, item) of the allowed items whose product is not clearly below the K-th best of its row."""
        with np.errstate(invalid="ignore", over="ignore"):  # what is no answer may hold anything
            rows = self._rows
            rough = rows.products(queries) if isinstance(rows, ItemRows) else queries @ rows.T
            rounding = 2.0**-22 * (self.dim + 2) * self._largest_norm * _norms(queries) + 1e-37
        kth = top_k(rough, k, excluded=~allowed)[1][:, k - 1]  # -inf where fewer are allowed
        row, item = np.nonzero(allowed & (rough >= (kth - rounding)[:, None]))
        return row, item


def usable_rows(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[Q], True where every number is finite and within LARGEST."""
    return np.asarray((np.abs(vectors) <= LARGEST).all(axis=1))  # NaN compares as False


def exact_scores(query: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N] scores by definition: eight float64 sums over dimensions j mod 8, then their sum in pairs.

    query: [D], or [N, D] for one beside each row.
    """
    count, dim = rows.shape
    products = np.zeros((count, -(-dim // 8) * 8))
    products[:, :dim] = rows.astype(np.float64) * query.astype(np.float64)
    sums = np.zeros((count, 8))
    for start in range(0, dim, 8):
        sums += products[:, start : start + 8]
    pairs = sums[:, 0::2] + sums[:, 1::2]
    total = (pairs[:, 0] + pairs[:, 1]) + (pairs[:, 2] + pairs[:, 3])
    return np.asarray(total.astype(np.float32))


def _in_parts(
    of_rows: Callable[[NDArray[np.float32]], NDArray[Any]], rows: NDArray[np.float32] | ItemRows, kind: type
) -> NDArray[Any]:
    """[I], a value for each row, with some rows at a time in float64."""
    values: NDArray[Any] = np.empty(len(rows), kind)
    for start in range(0, len(rows), PART):
        values[start : start + PART] = of_rows(rows[start : start + PART])
    return values


def _exact_pairs(
    queries: NDArray[np.float32],
    rows: NDArray[np.float32] | ItemRows,
    query: NDArray[np.int64],
    row: NDArray[np.int64],
) -> NDArray[np.float32]:
    """[N] `exact_scores` of pairs, in parts: in a table of ties there may be as many as scores."""
    scores = np.empty(len(row), np.float32)
    for start in range(0, len(row), PART):
        part = slice(start, start + PART)
        scores[part] = exact_scores(queries[query[part]], rows[row[part]])
    return scores


def pack(rows: NDArray[np.float32] | ItemRows, answers: NDArray[np.bool_]) -> Packed:
    """The int8 copy of the rows that may be answers. About 1 s a million rows of 64."""
    norms = _in_parts(_norms, rows, np.float64)
    order = np.flatnonzero(answers)
    order = order[np.argsort(-norms[order], kind="stable")]
    dim = rows.shape[1]
    slots, groups = -(-len(order) // BLOCK) * BLOCK, -(-dim // 8) * 2
    lines = _aligned(slots * groups * BYTES).reshape(slots // BLOCK, groups, BLOCK, BYTES)
    scale, error, size = np.zeros(slots, np.float32), np.zeros(slots), np.zeros(slots)
    number = np.full(slots, NOTHING, np.int32)
    number[: len(order)] = order
    for start in range(0, slots, PART):
        part = slice(start, min(start + PART, slots))
        x = np.zeros((part.stop - start, groups * BYTES))
        taken = order[part]
        x[: len(taken), :dim] = rows[taken]
        v, scale[part] = quantised(x)
        near = v * scale[part, None].astype(np.float64)
        error[part], size[part] = _norms(x - near), _norms(near)
        bytes_ = (v + 128).astype(np.uint8).reshape(-1, BLOCK, groups, BYTES)
        lines[start // BLOCK : part.stop // BLOCK] = bytes_.transpose(0, 2, 1, 3)
    largest = norms[order[::BLOCK]]
    norm = np.zeros(slots // BLOCK)
    norm[: len(largest)] = largest
    return Packed(lines, scale, _block_maxima(error), _block_maxima(size), _upwards(norm), number)


def quantised(
    x: NDArray[np.float64], steps: int = 127, kind: type[np.floating] = np.float32
) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
    """v [N, D], whole numbers in [-steps, steps], and scale [N] of that float type with x ≈ scale · v."""
    largest = np.abs(x).max(axis=1, initial=0.0)
    scale = np.where(largest < SMALLEST, 0.0, largest / steps).astype(kind)
    wide = scale.astype(np.float64)[:, None]
    v = np.divide(x, wide, out=np.zeros_like(x), where=wide > 0)
    return np.clip(np.rint(v), -steps, steps), scale


def _norms(x: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = x.astype(np.float64, copy=False)
    found: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    return found


def _block_maxima(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return _upwards(values.reshape(-1, BLOCK).max(axis=1))


def _upwards(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """As float32, never below the given numbers."""
    found: NDArray[np.float32] = np.nextafter(values.astype(np.float32), np.float32(np.inf))
    return found


def _aligned(size: int) -> NDArray[np.uint8]:
    """`size` bytes that begin at a cache line, so that no load straddles two."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]

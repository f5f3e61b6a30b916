"""An approximate index of item vectors: a graph of neighbours beside the exact index. Off by default.

For catalogues of tens of millions of items, where reading the int8 copy once takes more than an answer may.
The graph (HNSW, Malkov & Yashunin 2016, as faiss has it, vectors in 8 bits) proposes candidates; they are
scored exactly and sorted as `ItemIndex` does: scores are true, only an item may be missing. Where filters
leave few items, the exact index is asked. Its recall against the exact answer is measured when it is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import MissingExtra, UsageError
from slipstream.inference.item_index import ItemIndex, usable_rows
from slipstream.inference.retriever import NOTHING

LINKS, BUILD_WIDTH, WIDTH = 16, 100, 400
"""Neighbours of an item; candidates looked at when one is added, and at the least in a search."""
SELECTIVE = 0.05
"""If less than this part of the items is allowed, a graph wades through what is not, and is not asked."""


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("faiss", "approximate", "an approximate index") from error
    return faiss


class ApproximateIndex:
    """Searches like `ItemIndex`. Thread-safe."""

    def __init__(self, exact: ItemIndex, graph: Any) -> None:
        """graph: of the vectors of `exact` that may be answers, in their order."""
        self.exact, self._graph = exact, graph
        self._faiss = _faiss()
        self._number = np.flatnonzero(exact.answers).astype(np.int32)  # item of each place in the graph
        if graph.ntotal != len(self._number) or graph.d != exact.dim:
            raise UsageError("the approximate index is of another table", hint="make the release again")
        self.items, self.dim = exact.items, exact.dim
        self.searched = self.rescored = 0

    @classmethod
    def of(cls, exact: ItemIndex, vectors: NDArray[np.float32]) -> ApproximateIndex:
        """vectors [I, D]: those of `exact`. Cost: some 0.1 ms an item. Raises MissingExtra, UsageError."""
        faiss = _faiss()
        rows = np.ascontiguousarray(vectors[exact.answers], np.float32)
        if not len(rows):
            raise UsageError("there is no item vector to index")
        kind = faiss.ScalarQuantizer.QT_8bit
        graph = faiss.IndexHNSWSQ(exact.dim, kind, LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = BUILD_WIDTH
        graph.train(rows)
        graph.add(rows)
        return cls(exact, graph)

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.exact.mean

    def scores(self, query: NDArray[np.float32], items: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.exact.scores(query, items)

    def search(
        self, queries: NDArray[np.float32], k: int, *, excluded: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """As `ItemIndex.search`, except that an item may be missing and a lower one in its place."""
        items = np.full((len(queries), k), NOTHING, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for n, query in enumerate(np.ascontiguousarray(queries, np.float32)):
            own = excluded if excluded is None or excluded.ndim == 1 else excluded[n]
            allowed = np.ones(len(self._number), bool) if own is None else ~own[self._number]
            if np.count_nonzero(allowed) < max(SELECTIVE * len(allowed), 2 * max(WIDTH, 4 * k)):
                found, exact = self.exact.search(query[None], k, excluded=own)
                items[n], scores[n] = found[0], exact[0]
            elif usable_rows(query[None])[0]:
                found, exact = self._best(query, k, None if own is None else allowed)
                items[n, : len(found)], scores[n, : len(found)] = found, exact
        self.searched += len(queries)
        return items, scores

    def _best(
        self, query: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        width = max(WIDTH, 4 * k)
        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        selector = None if bits is None else self._faiss.IDSelectorBitmap(bits)
        parameters = self._faiss.SearchParametersHNSW(efSearch=width, sel=selector)
        places = self._graph.search(query[None], width, params=parameters)[1][0]
        candidates = self._number[places[places >= 0]]
        exact = self.exact.scores(query, candidates)
        best = np.lexsort((candidates, -exact))[:k]
        self.rescored += len(candidates)
        return candidates[best], exact[best]

    def recall(self, queries: NDArray[np.float32], k: int) -> float:
        """The part of the exact best K that is found, over all queries [Q, D]."""
        truth, found = self.exact.search(queries, k)[0], self.search(queries, k)[0]
        there = [len(set(a[a >= 0]) & set(b[b >= 0])) for a, b in zip(truth, found, strict=True)]
        return sum(there) / max(1, int((truth >= 0).sum()))

    def write(self, path: Path) -> None:
        self._faiss.write_index(self._graph, str(path))

    @classmethod
    def read(cls, path: Path, exact: ItemIndex) -> ApproximateIndex:
        return cls(exact, _faiss().read_index(str(path)))

"""The one ranking of the house: trials rank with it, and what is served ranks with the same two parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries, excluded_mask
from slipstream.inference.item_index import ItemIndex
from slipstream.inference.retriever import NOTHING, top_k
from slipstream.models.recommender import Embeds, Recommender

BATCH = 256
"""Queries scored at once: 256 rows of 100k float32 scores are 100 MB, the largest block held in memory."""


def rank(
    model: Recommender,
    queries: Queries,
    k: int,
    *,
    repeat: bool = False,
    candidates: NDArray[np.bool_] | None = None,
    batch: int = BATCH,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The K best items [Q, K] and their scores [Q, K] for each query, best first, ties by item number.

    repeat: whether an item of the history may come back. candidates: [I] or [Q, I], True where an item may
    appear. A query with fewer than K answers is padded with item -1 and score -inf.
    Memory O(batch · I) for the scores and their mask, whatever Q is.
    """
    items = np.full((len(queries), k), NOTHING, np.int32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for start, part in queries.batches(batch):
        stop = start + len(part)
        guesses = model.score(part)
        excluded = excluded_mask(part, guesses.shape[1], repeat=repeat)
        if candidates is not None:
            excluded |= ~(candidates if candidates.ndim == 1 else candidates[start:stop])
        items[start:stop], scores[start:stop] = top_k(guesses, k, excluded=excluded)
    return items, scores


class VectorRanking:
    """The same ranking for a model with vectors, from states of users, by searching its items."""

    def __init__(self, model: Recommender) -> None:
        assert isinstance(model, Embeds)  # noqa: S101 - asked of such models only
        self._model: Recommender = model
        self._vectors = model.item_vectors()
        bias = getattr(model, "item_bias", None)
        self._biased = bias is not None
        if bias is not None:
            self._vectors = np.column_stack([self._vectors, bias()])
        self._index: ItemIndex | None = None

    def rank(
        self, states: NDArray[np.float32], queries: Queries, k: int, candidates: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """As `rank` with `repeat`; states [Q, D]: the query vectors of `queries`; candidates [Q, I]."""
        heard = np.flatnonzero(np.isfinite(states).all(axis=1))
        if self._index is None and len(heard):
            first = int(heard[0])  # items that the model never met are NaN in every row that has a score
            met = ~np.isnan(self._model.score(queries.part(first, first + 1))[0])
            self._index = ItemIndex(self._vectors, known=met)
        if self._index is None:
            shape = (len(queries), k)
            return np.full(shape, NOTHING, np.int32), np.full(shape, -np.inf, np.float32)
        if self._biased:
            states = np.column_stack([states, np.ones(len(states), np.float32)])
        return self._index.search(states, k, excluded=~candidates)

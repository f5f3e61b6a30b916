"""How like two items are to a model, and the lists of the most alike that a release carries with it."""

from __future__ import annotations

import time
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries, query_of
from slipstream.inference.retriever import top_k
from slipstream.models.recommender import Embeds, Recommender

LISTED = 30
"""Items of a list: 240 bytes for each item of the release."""
MOST_LISTED_ITEMS = 50_000
BUDGET_S = 10.0
BATCH = 64

Lists = tuple[NDArray[np.int32], NDArray[np.float32]]
"""(items [I, LISTED], -1 where there is none; how like they are [I, LISTED]), best first."""


class Likeness:
    """A model with vectors gives their cosine; any other is asked what it would show to a person who has
    touched this one item only. If it would show the same to one who touched nothing, it cannot say.
    """

    def __init__(self, model: Recommender) -> None:
        self._model = model

    def of(self, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[len(items), I] how like every item is to each of `items`, > 0; NaN where it is not or unknown."""
        if isinstance(self._model, Embeds):
            scores = self._directions[items] @ self._directions.T
        else:
            scores = np.array(self._model.score(_each_alone(items)), np.float32)
            scores[[np.array_equal(row, self._unasked, equal_nan=True) for row in scores]] = np.nan
        scores[~(scores > 0)] = np.nan
        return scores

    @cached_property
    def _unasked(self) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._model.score(query_of([]))[0]
        return scores

    @cached_property
    def _directions(self) -> NDArray[np.float32]:
        """[I, D] item vectors of unit length; NaN for an item without one."""
        assert isinstance(self._model, Embeds)  # noqa: S101 - asked only then
        vectors = np.asarray(self._model.item_vectors(), np.float32)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        found = np.full_like(vectors, np.nan)
        np.divide(vectors, length, out=found, where=length > 0)
        return found

    def lists(self, item_count: int, budget_s: float = BUDGET_S) -> Lists | None:
        """The most alike of every item; None where that would take more than `budget_s` of CPU time.

        Cost: one answer per item. Asked once per release, so that no caller pays for it.
        """
        if item_count > MOST_LISTED_ITEMS:
            return None
        items = np.full((item_count, LISTED), -1, np.int32)
        scores = np.full((item_count, LISTED), -np.inf, np.float32)
        began = time.process_time()
        for start in range(0, item_count, BATCH):
            asked = np.arange(start, min(start + BATCH, item_count), dtype=np.int32)
            alike = self.of(asked)
            alike[np.arange(len(asked)), asked] = np.nan
            items[asked], scores[asked] = top_k(alike, LISTED)
            if (time.process_time() - began) * item_count > budget_s * (start + len(asked)):
                return None
        return items, scores


def _each_alone(items: NDArray[np.int32]) -> Queries:
    """One query per item: somebody who has touched it and nothing else."""
    return Queries(np.full(len(items), -1, np.int32), np.arange(len(items) + 1, dtype=np.int64), items)

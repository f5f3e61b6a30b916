"""From all items to the few of a slate: the best, with variety and places for newcomers.

A shortlist gives the best items that are allowed, as many as are asked for: from the scores of all items, or
by searching an index without scoring them all. Both give the same items, up to the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.inference.approximate_index import ApproximateIndex
from slipstream.inference.item_index import ItemIndex
from slipstream.inference.retriever import top_k

if TYPE_CHECKING:
    from slipstream.recommend.newcomers import Shelf

Pair = tuple[int, float]
"""An item's shelf number and its score."""


class Shortlist(Protocol):
    def best(self, excluded: NDArray[np.bool_], k: int) -> list[Pair]:
        """The K best that are not excluded [I + N], best first, ties by number; fewer if there are fewer."""
        ...


class Scored:
    """The scores of all items [I + N]; NaN and infinities are no answer."""

    def __init__(self, scores: NDArray[np.float32]) -> None:
        self._scores = scores

    def best(self, excluded: NDArray[np.bool_], k: int) -> list[Pair]:
        return _pairs(*top_k(self._scores[None, :], k, excluded=excluded[None, :]))


class Searched:
    """An index and what to look for, [1, D]. The few newcomers of the shelf are scored all."""

    def __init__(
        self, index: ItemIndex | ApproximateIndex, vector: NDArray[np.float32], shelf: Shelf
    ) -> None:
        self._index, self._vector = index, vector
        self._new: Scored | None = None
        if shelf.newcomers:
            mean = float(index.mean @ vector[0])
            self._new = Scored(shelf.borrowed(lambda items: index.scores(vector[0], items), mean))

    def best(self, excluded: NDArray[np.bool_], k: int) -> list[Pair]:
        released = self._index.items
        found = _pairs(*self._index.search(self._vector, k, excluded=excluded[:released]))
        if self._new is None:
            return found
        new = [(released + item, score) for item, score in self._new.best(excluded[released:], k)]
        return sorted(found + new, key=lambda pair: (-pair[1], pair[0]))[:k]


def _pairs(items: NDArray[np.int32], scores: NDArray[np.float32]) -> list[Pair]:
    pairs = zip(items[0].tolist(), scores[0].tolist(), strict=True)
    return [pair for pair in pairs if isfinite(pair[1])]


def varied(
    shortlist: Shortlist,
    excluded: NDArray[np.bool_],
    k: int,
    shelf: Shelf,
    caps: Mapping[str, int],
    minimum: int,
) -> list[Pair]:
    """The best first, each taken if no value of a capped attribute is full; a short slate is filled up to
    `minimum` with the best of those held back. Looks at more and more candidates until K are found."""
    width = 4 * k
    while True:
        candidates = shortlist.best(excluded, width)
        chosen, held = _within(candidates, k, shelf, caps)
        if len(chosen) == k or len(candidates) < width:
            break
        width *= 4
    chosen += held[: max(0, minimum - len(chosen))]
    return sorted(chosen, key=lambda pair: (-pair[1], pair[0]))


def _within(
    candidates: Sequence[Pair], k: int, shelf: Shelf, caps: Mapping[str, int]
) -> tuple[list[Pair], list[Pair]]:
    counts: dict[tuple[str, str], int] = {}
    chosen: list[Pair] = []
    held: list[Pair] = []
    for item, score in candidates:
        if len(chosen) == k:
            break
        attributes = shelf.attributes(item)
        values = [(column, text) for column in caps for text in attributes.get(column, ())]
        if any(counts.get(value, 0) >= caps[value[0]] for value in values):
            held.append((item, score))
            continue
        chosen.append((item, score))
        for value in values:
            counts[value] = counts.get(value, 0) + 1
    return chosen, held


def with_newcomers(
    chosen: list[Pair],
    shortlist: Shortlist,
    excluded: NDArray[np.bool_],
    k: int,
    released: int,
    slots: int,
) -> list[Pair]:
    """`chosen` with its last places given to the best newcomers, so that a new item gets seen at all.

    Nothing changes without newcomers, or where enough of them earned a place; a slate never becomes all new.
    """
    if len(excluded) == released or not slots:
        return chosen
    there = {item for item, _ in chosen if item >= released}
    wanted = min(slots, k - 1) - len(there)
    if wanted <= 0:
        return chosen
    only_new = excluded.copy()
    only_new[:released] = True
    fresh = shortlist.best(only_new, k)
    fresh = [pair for pair in fresh if pair[0] not in there][:wanted]
    kept = [pair for pair in chosen if pair[0] < released][: k - len(fresh) - len(there)]
    old = [pair for pair in chosen if pair[0] >= released]
    return sorted([*kept, *old, *fresh], key=lambda pair: (-pair[1], pair[0]))

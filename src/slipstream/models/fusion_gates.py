"""Whom to believe about whom: how much a member of a fusion counts for short histories and for rare items.

    weight of member m for history u and item i  =  w_m · a_m[events of u] · b_m[events of i]

A model of sequences knows little of an item that few have touched, a model of paths little of somebody with
one event; a single weight has to suit both. a and b are steps, 1 where nothing was learned, so that a fusion
without gates is the same with gates of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HISTORY_STEPS = (5, 20, 100)
ITEM_STEPS = (1, 5, 50)
"""Events from which on the next step begins."""
FACTORS = (0.0, 0.3, 0.6, 1.6, 3.0)
"""What a step is multiplied with, tried in this order."""
WORTH_IT = 1.002
"""A step is moved where NDCG grows by more than this: there are many steps, and luck would find one."""


@dataclass(frozen=True)
class Gate:
    """history: [M, H], item: [M, C] float64, >= 0; one column a step."""

    history: NDArray[np.float64]
    item: NDArray[np.float64]

    @classmethod
    def open(cls, members: int) -> Gate:
        """All ones."""
        return cls(np.ones((members, len(HISTORY_STEPS) + 1)), np.ones((members, len(ITEM_STEPS) + 1)))

    @property
    def is_open(self) -> bool:
        return bool((self.history == 1).all() and (self.item == 1).all())

    def of(self, member: int, history: NDArray[np.integer], item: NDArray[np.integer]) -> NDArray[np.float32]:
        """[Q, N] for steps of histories [Q] and of items [N] or [Q, N]."""
        factors = self.history[member][history][:, None] * self.item[member][item]
        return np.asarray(factors, np.float32)

    def members(self, kept: NDArray[np.bool_]) -> Gate:
        """Of some members only."""
        return Gate(self.history[kept], self.item[kept])

    def moved(self, part: str, member: int, step: int, factor: float) -> Gate:
        """One step of one member multiplied; part: `history` or `item`."""
        history, item = self.history.copy(), self.item.copy()
        (history if part == "history" else item)[member, step] *= factor
        return Gate(history, item)


def history_steps(lengths: NDArray[np.integer]) -> NDArray[np.int8]:
    """The step of each history, by its events."""
    return np.searchsorted(HISTORY_STEPS, lengths, side="right").astype(np.int8)


def item_steps(counts: NDArray[np.integer]) -> NDArray[np.int8]:
    """The step of each item, by its events."""
    return np.searchsorted(ITEM_STEPS, counts, side="right").astype(np.int8)

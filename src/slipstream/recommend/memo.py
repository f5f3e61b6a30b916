"""What was worked out for one state of a user: finished slates, and the model's own state.

A memo belongs to one immutable `UserState` of one pipeline, that is of one release under one set of rules.
Whatever changes the answer makes a new state (an event, a forgetting) or a new pipeline (a release, rules),
and so a new memo: a slate in it can be old, but never stale. Only the shelf may change beside it; each slate
remembers the shelf that it was made from.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries
from slipstream.models.recommender import (
    AtRest,
    ExplainsFromState,
    Incremental,
    ModelState,
    Rests,
    ScoreMatrix,
    Searchable,
)

if TYPE_CHECKING:
    from slipstream.recommend.newcomers import Shelf
    from slipstream.recommend.slate import Slate

MOST_SLATES = 8
"""Slates kept per state; pages that differ in `k` or filters seldom are more."""
MOST_NAMED = 200
"""A request that names more ids than this is not worth a key."""
MOST_STEPS = 64
"""After more new events than this, one pass over the history is cheaper than as many steps."""


class ModelMemory:
    """A model's state of one user. It is handed on from state to state while events are only appended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: ModelState | AtRest | None = None
        self._resting = False
        self._seen = 0  # events of the query that the state holds

    @property
    def nbytes(self) -> int:
        state = self._state
        return 0 if state is None else state.nbytes

    def score(self, model: Incremental, query: Queries) -> ScoreMatrix:
        """[1, I], as `model.score(query)`: the events that are new since the last call are steps."""
        with self._lock:
            state = self._advanced(model, query)
            return model.score(query) if state is None else model.score_from(state, query)

    def vector(self, model: Searchable, query: Queries) -> NDArray[np.float32]:
        """[1, D], as `model.query_vectors(query)`, in the same way."""
        with self._lock:
            state = self._advanced(model, query)
            return model.query_vectors(query) if state is None else model.vector_from(state, query)

    def contributions(
        self, model: ExplainsFromState, query: Queries, items: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As `model.contributions_from`, of the model that the state belongs to."""
        with self._lock:
            if self._state is None or self._seen != len(query.item):
                return np.arange(len(query.item)), model.contributions(query, items)
            return model.contributions_from(self._awake(), query, items)

    def rest(self) -> None:
        """Keep the state in fewer bytes until it is asked for; not while somebody is at it."""
        if self._lock.acquire(blocking=False):
            try:
                if isinstance(self._state, Rests) and not self._resting:
                    self._state, self._resting = self._state.at_rest(), True
            finally:
                self._lock.release()

    def _awake(self) -> Any:
        state: Any = self._state
        if self._resting:
            self._state, self._resting = state.awake(), False
        return self._state

    def _advanced(self, model: Incremental, query: Queries) -> ModelState | None:
        """The state after the query's history; None if another thread has gone ahead with a later one."""
        state: ModelState | None = self._awake()
        new = len(query.item) - self._seen
        if state is not None and new < 0:
            return None
        self._state = None  # a step that fails half way leaves nothing behind
        if state is None or new > MOST_STEPS:
            state = model.start(query)
        else:
            for place in range(self._seen, len(query.item)):
                time_us = None if query.time_us is None else int(query.time_us[place])
                model.advance(state, int(query.item[place]), time_us)
        self._state, self._seen = state, len(query.item)
        return state


@dataclass(frozen=True)
class _Kept:
    shelf: Shelf
    slate: Slate


class Memo:
    """See the module. Thread-safe."""

    __slots__ = ("_bytes", "_slates", "model")

    def __init__(self, model: ModelMemory | None = None) -> None:
        self.model = model or ModelMemory()
        self._slates: dict[Hashable, _Kept] = {}
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        return self.model.nbytes + self._bytes

    def slate(self, key: Hashable, shelf: Shelf) -> Slate | None:
        """The finished slate of a request that was asked of this state and shelf before."""
        kept = self._slates.get(key)
        return kept.slate if kept is not None and kept.shelf is shelf else None

    def keep(self, key: Hashable, shelf: Shelf, slate: Slate) -> None:
        if len(self._slates) >= MOST_SLATES and key not in self._slates:
            self._slates, self._bytes = {}, 0
        self._slates[key] = _Kept(shelf, slate)
        self._bytes += 400 + sum(300 + 600 * len(item.reasons) for item in slate.items)


def named(ids: Collection[str] | None) -> frozenset[str] | None:
    """A set of ids as part of a key; order and repeats do not matter to an answer."""
    return None if ids is None else frozenset(ids)

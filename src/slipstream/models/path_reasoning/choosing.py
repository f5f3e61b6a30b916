"""Which derived relations a path reasoner draws: their ridges, reaches, powers and memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.config import Progress
from slipstream.dataset.queries import Holdout, Queries
from slipstream.dataset.snapshot import Snapshot
from slipstream.graph.derived import DerivedEdges, NextSettings, SimilarSettings, next_edges, similar_edges
from slipstream.models.path_reasoning.attention import attention
from slipstream.models.path_reasoning.legs import EdgeLeg
from slipstream.models.path_reasoning.settings import PathReasonerSettings
from slipstream.models.validation import validation_ndcg

_SIMILAR_MEMORIES = (3.0, 8.0, 20.0, 0.0)
_RIDGE_STEPS = (1.0, 0.0625, 8.0)  # times the usual ridge: weak and strong ones can both be good
_NEXT_STEPS = ((1.0, 1.0), (2.0, 1.0), (4.0, 2.0), (8.0, 4.0), (6.0, 10.0))  # (past, future), by reach
_NEXT_POWERS = (1.0, 0.7, 0.5)
_NEXT_MEMORIES = (1.0, 1.5)  # beside the past that the edges were fitted with


class Derivation:
    """Draws `similar_to` and `next`, each once per data and settings, and chooses their settings.

    ground, judge: the data to draw from and the questions to answer while choosing. What is chosen is in
    `chosen`, by the name of the setting; what was tried is in `notes`.
    """

    def __init__(
        self,
        settings: PathReasonerSettings,
        ground: Snapshot,
        judge: Holdout,
        progress: Progress,
    ) -> None:
        self.settings, self.ground, self.judge, self.progress = settings, ground, judge, progress
        self.items = ground.item_count
        self.chosen: dict[str, float] = {}
        self.notes: dict[str, Any] = {}
        self.drawn: dict[tuple[str, int, float, float], tuple[Snapshot, sp.csr_matrix]] = {}

    def _similar(self, snapshot: Snapshot, ridge: float) -> sp.csr_matrix:
        key = ("similar_to", id(snapshot), ridge, 0.0)
        if key not in self.drawn:
            settings = SimilarSettings(ridge=ridge, keep=self.settings.edges_per_item)
            self._draw(key, snapshot, similar_edges(snapshot, settings, self.progress))
        return self.drawn[key][1]

    def _next(self, snapshot: Snapshot, past: float, future: float) -> sp.csr_matrix:
        ridge, keep = self.settings.next_ridge, self.settings.edges_per_item
        key = ("next", id(snapshot), past, future)
        if key not in self.drawn:
            settings = NextSettings(past=past, future=future, ridge=ridge, keep=keep)
            self._draw(key, snapshot, next_edges(snapshot, settings, self.progress))
        return self.drawn[key][1]

    def _draw(self, key: tuple[str, int, float, float], snapshot: Snapshot, edges: DerivedEdges) -> None:
        """Keep what was drawn; the notes say what the cap on edges costs in the latest drawing."""
        self.drawn[key] = snapshot, edges.matrix
        self.notes[f"{key[0]} strength beyond the cap"] = round(edges.lost, 4)

    def legs(self, snapshot: Snapshot) -> dict[str, EdgeLeg]:
        """The chosen derived relations, drawn from a snapshot."""
        legs = {}
        if "similar_memory" in self.chosen:
            matrix = self._similar(snapshot, self.chosen["similar_ridge"])
            legs["similar_to"] = EdgeLeg("similar_to", matrix, self.chosen["similar_memory"])
        if "next_memory" in self.chosen:
            matrix = self._next(snapshot, self.chosen["next_past"], self.chosen["next_future"])
            damped = _damped(matrix, self.chosen["next_power"])
            legs["next"] = EdgeLeg("next", damped, self.chosen["next_memory"])
        return legs

    def choose_similar(self) -> None:
        if not self.settings.similar or not self.ground.event_count:
            return
        given, memory = self.settings.similar_ridge, self.settings.similar_memory
        memories = (memory,) if memory is not None else _SIMILAR_MEMORIES if self.ground.ordered else (0.0,)
        if given is not None and len(memories) == 1:
            self.chosen |= {"similar_ridge": given, "similar_memory": memories[0]}
            return
        usual = float(np.clip(8 * self.ground.event_count / max(1, self.items), 100, 1000))
        ridges = [usual * step for step in _RIDGE_STEPS] if given is None else [given]
        best: dict[float, tuple[float, float]] = {}  # ridge: (quality, memory)
        for ridge in ridges:
            matrix = self._similar(self.ground, ridge)
            tries = [(self._quality(EdgeLeg("similar_to", matrix, m)), m) for m in memories]
            best[ridge] = max(tries, key=lambda found: found[0])
        ridge = max(ridges, key=lambda r: best[r][0])
        self.notes["similar_to tried"] = {f"{r:g}": [round(q, 4), m] for r, (q, m) in best.items()}
        self.chosen |= {"similar_ridge": ridge, "similar_memory": best[ridge][1]}

    def choose_next(self) -> None:
        if not self.settings.next or not self.ground.ordered or not self.ground.event_count:
            return
        past, future = self.settings.next_past, self.settings.next_future
        if past is None or future is None:
            past, future = self._next_step()
        given, memory = self.settings.next_power, self.settings.next_memory
        powers = _NEXT_POWERS if given is None else (given,)
        memories = tuple(past * longer for longer in _NEXT_MEMORIES) if memory is None else (memory,)
        tries = [(p, m) for m in memories for p in powers]
        legs = []
        if len(tries) > 1:
            matrix = self._next(self.ground, past, future)
            legs = [EdgeLeg("next", _damped(matrix, power), memory) for power, memory in tries]
        power, memory = tries[self._best(legs)]
        self.chosen |= {"next_past": past, "next_future": future, "next_power": power, "next_memory": memory}

    def _next_step(self) -> tuple[float, float]:
        """The best (past, future): from the middle up or down for as long as it gets better."""
        quality: dict[int, float] = {}

        def at(place: int) -> float:
            if place not in quality:
                past, future = _NEXT_STEPS[place]
                matrix = self._next(self.ground, past, future)
                legs = [EdgeLeg("next", _damped(matrix, power), past) for power in _NEXT_POWERS[::2]]
                quality[place] = max(self._quality(leg) for leg in legs)
            return quality[place]

        place = _climb(at, len(_NEXT_STEPS))
        self.notes["next steps"] = {str(_NEXT_STEPS[p]): round(q, 4) for p, q in sorted(quality.items())}
        return _NEXT_STEPS[place]

    def _best(self, legs: Sequence[EdgeLeg]) -> int:
        """The leg that alone answers the judge best; the first of equals."""
        if not legs:
            return 0
        quality = [self._quality(leg) for leg in legs]
        self.notes[f"{legs[0].relation} tried"] = [round(q, 4) for q in quality]
        return int(np.argmax(quality))

    def _quality(self, leg: EdgeLeg) -> float:
        def score(queries: Queries) -> NDArray[np.float32]:
            return leg.sums(attention(queries, self.items, leg.memory)).astype(np.float32)

        return validation_ndcg(score, self.judge)


def _climb(at: Callable[[int], float], places: int) -> int:
    """The place below `places` where `at` is best: from the middle up or down while it gets better."""
    place = places // 2
    best = at(place)
    for way in (-1, 1):
        while 0 <= place + way < places and at(place + way) > best:
            place += way
            best = at(place)
    return place


def _damped(matrix: sp.csr_matrix, power: float) -> sp.csr_matrix:
    """Strengths to a power below 1: many weak signs then count more beside one strong sign."""
    return matrix if power == 1.0 else matrix.power(power)

"""Item neighbours: what followed the things you touched last. The strongest model that learns nothing.

With an order, two items are near when they stand near each other in histories: a pair d events apart counts
1/d^p, inside a window, and a pair in the other direction counts `backward` as much. Without an order every
pair of a history counts 1 (cosine and its relatives). The count is damped and divided by both popularities:

    S[i, j] = C[i, j]^count_power / (n_i^source_power · n_j^target_power)
    score(q)[j] = Σ over the events h of the history of  weight(rank of h) · S[item of h, j]

so every score is a sum over history events, and its parts are its exact explanation.

Source: item-to-item neighbours with sequence distance, as measured in the prototype of this project (window
10, 1/distance, popularity to 0.3 on both sides, half-life 1.5 events). Different here: the count is damped
(a square root suits most data), the two directions count apart, and a slow part of the memory is kept; all
are chosen on validation from a few points, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import Field

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import Range, Settings, Space
from slipstream.dataset.queries import Queries
from slipstream.dataset.snapshot import Snapshot
from slipstream.models.history import Memory, event_weights, history_matrix, keep_largest, silence_unknown
from slipstream.models.recommender import FitContext, FitReport, ScoreMatrix, TrainingData
from slipstream.models.validation import sample_holdout, validation_ndcg

VALIDATION_USERS = 3_000
SPARE = 4
"""Pairs kept per item while choosing, in multiples of `neighbours`: bounds the memory on large catalogues."""

_ORDERED_START: Mapping[str, float] = {
    "half_life": 2.0,
    "count_power": 0.5,
    "backward": 0.25,
    "target_power": 0.12,
    "source_power": 0.3,
    "long_share": 0.03,
}
_UNORDERED_START: Mapping[str, float] = {
    "half_life": 0.0,
    "count_power": 1.0,
    "backward": 1.0,
    "target_power": 0.5,
    "source_power": 0.5,
    "long_share": 0.0,
}
_ORDERED_POINTS: Mapping[str, tuple[float, ...]] = {
    "half_life": (1.0, 1.5, 2.5, 5.0, 15.0, 50.0),
    "count_power": (0.35, 0.7, 1.0),
    "backward": (0.0, 0.1, 0.5, 1.0),
    "target_power": (0.0, 0.06, 0.18, 0.3),
    "source_power": (0.15, 0.45, 0.7),
    "long_share": (0.0, 0.1),
}
_UNORDERED_POINTS: Mapping[str, tuple[float, ...]] = {
    "target_power": (0.2, 0.35, 0.65),
    "source_power": (0.2, 0.35, 0.65, 0.8),
    "count_power": (0.5, 0.75, 1.25),
}


class ItemNeighboursSettings(Settings):
    """None: chosen on validation (the middle of the road without one)."""

    space: ClassVar[Space] = {
        "window": Range(2, 20, needs_order=True),
        "distance_power": Range(0.0, 2.0, needs_order=True),
        "half_life": Range(0.5, 50.0, log=True, needs_order=True),
        "long_share": Range(0.0, 0.3, needs_order=True),
        "backward": Range(0.0, 1.0, needs_order=True),
        "count_power": Range(0.3, 1.3),
        "source_power": Range(0.0, 0.8),
        "target_power": Range(0.0, 0.7),
    }

    window: int = Field(10, ge=0)
    """Events between the two items of a pair, at most; 0: no order, all pairs of a history count alike."""
    distance_power: float = Field(1.0, ge=0)
    neighbours: int = Field(400, ge=1)
    """Kept per item."""
    half_life: float | None = Field(None, ge=0)
    """Events after which an event of the history counts half; 0: no forgetting."""
    long_share: float | None = Field(None, ge=0)
    count_power: float | None = Field(None, gt=0)
    backward: float | None = Field(None, ge=0)
    source_power: float | None = Field(None, ge=0)
    target_power: float | None = Field(None, ge=0)


class ItemNeighbours:
    """Scores are sums over the history; NaN for a history of unknown items and for items never seen."""

    settings_type: ClassVar[type[Settings]] = ItemNeighboursSettings
    refits: ClassVar[bool] = True

    def __init__(
        self,
        nearness: sp.csr_matrix,
        known: NDArray[np.bool_],
        settings: ItemNeighboursSettings,
        report: FitReport,
    ) -> None:
        self.settings: Settings = settings
        self.report = report
        self._nearness = nearness  # [I, I]
        self._known = known  # [I]
        self._memory = Memory(settings.half_life or 0.0, settings.long_share or 0.0)

    @classmethod
    def preset(cls, data: TrainingData) -> ItemNeighboursSettings:
        return ItemNeighboursSettings(window=10 if data.train.ordered else 0)

    @classmethod
    def fit(cls, data: TrainingData, settings: ItemNeighboursSettings, context: FitContext) -> Self:
        """Count once, then try some 25 points on at most 3,000 people. O(E · window) time and pairs."""
        search = _Search(data, settings, context)
        chosen = search.choose()
        report = FitReport(notes={"validation_ndcg": search.best, "tried": search.tried})
        return cls(search.nearness(chosen), data.train.item_counts > 0, chosen, report)

    def score(self, queries: Queries) -> ScoreMatrix:
        """O(Σ counted events · neighbours)."""
        weighted = history_matrix(queries, self._known, self._memory)
        scores: ScoreMatrix = (weighted @ self._nearness).toarray()
        return silence_unknown(scores, queries, self._known)

    def contributions(self, query: Queries, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[len(items), H]: weight of the event times nearness; the sum over H is the score."""
        weights = event_weights(query, self._known, self._memory)
        parts = np.zeros((len(items), len(query.item)), np.float32)
        counted = np.flatnonzero(weights)
        wanted = np.asarray(items)
        parts[:, counted] = (
            self._nearness[query.item[counted]].toarray()[:, wanted] * weights[counted, None]
        ).T
        return parts

    def save(self, writer: ArtifactWriter) -> None:
        writer.array("offsets", self._nearness.indptr.astype(np.int64))
        writer.array("neighbour", self._nearness.indices.astype(np.int32))
        writer.array("nearness", self._nearness.data)
        writer.array("known", self._known)

    @classmethod
    def load(cls, artifact: Artifact, settings: ItemNeighboursSettings) -> Self:
        known = artifact.array("known")
        parts = (artifact.array("nearness"), artifact.array("neighbour"), artifact.array("offsets"))
        return cls(sp.csr_matrix(parts, shape=(len(known), len(known))), known, settings, FitReport())


class _Search:
    """Coordinate search over the settings that are None: each in turn, the best value kept."""

    def __init__(self, data: TrainingData, settings: ItemNeighboursSettings, context: FitContext) -> None:
        self.settings = settings
        self.context = context
        self.ordered = settings.window > 0
        self.known = data.train.item_counts > 0
        self.popularity = np.maximum(data.train.item_counts, 1).astype(np.float32)
        self.forward = _pairs(data.train, settings)
        self.holdout = None
        if data.validation is not None and len(data.validation):
            self.holdout = sample_holdout(data.validation, VALIDATION_USERS, context.seed)
        self.tried = 0
        self.best: float | None = None
        self._shape: tuple[Any, ...] = ()
        self._nearness: sp.csr_matrix | None = None

    def choose(self) -> ItemNeighboursSettings:
        start = _ORDERED_START if self.ordered else _UNORDERED_START
        points = _ORDERED_POINTS if self.ordered else _UNORDERED_POINTS
        open_names = [name for name in start if getattr(self.settings, name) is None]
        current = self.settings.model_copy(update={name: start[name] for name in open_names})
        if self.holdout is None or not open_names:
            return current
        rounds = [name for name in points if name in open_names]
        rounds += [name for name in rounds if name == "half_life"]  # it depends most on the others
        total = 1 + sum(len(points[name]) for name in rounds)
        self.best = self._value(current, total)
        for name in rounds:
            for point in points[name]:
                candidate = current.model_copy(update={name: point})
                value = self._value(candidate, total)
                if value > self.best:
                    current, self.best = candidate, value
        return current

    def _value(self, settings: ItemNeighboursSettings, total: int) -> float:
        self.context.progress(self.tried, total, "choosing")
        self.tried += 1
        model = ItemNeighbours(self.nearness(settings), self.known, settings, FitReport())
        assert self.holdout is not None  # noqa: S101 - choose() asks only with one
        return validation_ndcg(model.score, self.holdout)

    def nearness(self, settings: ItemNeighboursSettings) -> sp.csr_matrix:
        """S of these settings; the last one is kept, as half of the search changes the memory only."""
        shape = (settings.backward, settings.count_power, settings.source_power, settings.target_power)
        if self._nearness is None or shape != self._shape:
            self._shape = shape
            self._nearness = self._make(settings)
        return self._nearness

    def _make(self, s: ItemNeighboursSettings) -> sp.csr_matrix:
        counts = (
            (self.forward + (s.backward or 0.0) * self.forward.T).tocsr() if self.ordered else self.forward
        )
        rows = np.repeat(self.popularity ** -(s.source_power or 0.0), np.diff(counts.indptr))
        columns = (self.popularity ** -(s.target_power or 0.0))[counts.indices]
        values = (counts.data ** (s.count_power or 1.0)) * rows * columns
        scaled = sp.csr_matrix(
            (values.astype(np.float32), counts.indices, counts.indptr), counts.shape, copy=True
        )
        scaled.eliminate_zeros()
        return keep_largest(scaled, s.neighbours)


def _pairs(train: Snapshot, settings: ItemNeighboursSettings) -> sp.csr_matrix:
    """[I, I] float32: how often (how near) j came after i; without an order, how many people have both."""
    if settings.window > 0:
        return _pairs_in_order(train, settings)
    matrix = train.matrix()
    blocks = []
    transposed = matrix.T.tocsr()
    for start in range(0, train.item_count, 1024):
        block = (transposed[start : start + 1024] @ matrix).tocsr()
        blocks.append(keep_largest(block, SPARE * settings.neighbours))
    pairs = sp.vstack(blocks, format="csr")
    pairs.setdiag(0)
    pairs.eliminate_zeros()
    return pairs


def _pairs_in_order(train: Snapshot, settings: ItemNeighboursSettings) -> sp.csr_matrix:
    shape = (train.item_count, train.item_count)
    total = sp.csr_matrix(shape, dtype=np.float32)
    user, item = train.user, np.asarray(train.item)
    for distance in range(1, min(settings.window, train.event_count - 1) + 1):
        same = user[distance:] == user[:-distance]
        if not same.any():
            break
        weight = np.full(int(same.sum()), distance**-settings.distance_power, np.float32)
        total = total + sp.csr_matrix((weight, (item[:-distance][same], item[distance:][same])), shape=shape)
    return total.astype(np.float32)


MODEL = ItemNeighbours

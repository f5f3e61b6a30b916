"""iALS: matrix factorisation of who touched what, by alternating exact least squares.

    min  Σ_seen (x_ui − u·v)² + α₀ Σ_all (u·v)² + λ ( Σ_u (n_u + α₀ I)^ν ‖u‖² + Σ_i (n_i + α₀ U)^ν ‖v‖² )

The unobserved weight α₀ and the frequency-scaled λ decide how good it is. A person is folded in: the vector
is solved from the history each time, so a stranger with a history is like anybody else, and the next click
counts.

Source: Rendle, Krichene, Zhang, Koren 2021, "Revisiting the performance of iALS on item recommendation
benchmarks". Different here: rows are solved exactly in batches of like length, a short history (fewer events
than dimensions) through its small Gram matrix; a training event may weigh less with its age, where taste
moves with the calendar; and at query time events may fade by their rank from the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import Field

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import OneOf, Range, Settings, Space
from slipstream.dataset.queries import Queries
from slipstream.dataset.snapshot import Snapshot
from slipstream.models.history import Memory, event_weights, silence_unknown
from slipstream.models.recommender import Earlier, FitContext, FitReport, ScoreMatrix, TrainingData
from slipstream.models.validation import best_of, sample_holdout, validation_ndcg
from slipstream.randomness import generator

VALIDATION_USERS = 2_000
ITERATIONS = (4, 6, 10)
WARM = "warm_start"
DAY_US = 86_400_000_000
BATCH_FLOATS = 2_000_000
_HALF_LIVES = (0.0, 2.0, 5.0, 15.0, 50.0, 150.0)
_FRESH = ((100.0, 1.0), (30.0, 1.0), (10.0, 2.0))
"""(days, what λ is multiplied by): the fewer events count, the more they must be held together."""
_PAIRS = ((15, 0.01), (15, 0.003), (15, 0.02), (5, 0.03), (40, 0.003), (40, 0.01))
"""(α₀ as a multiple of the share of pairs that were seen, λ) to try, the middle of the road first."""


class IalsSettings(Settings):
    """None: chosen on validation."""

    space: ClassVar[Space] = {
        "dim": OneOf((32, 64, 128, 256)),
        "iterations": Range(5, 15),
        "unobserved": Range(1e-4, 3.0, log=True),
        "regularisation": Range(3e-4, 0.1, log=True),
        "frequency_power": Range(0.0, 1.0),
        "half_life": Range(1.0, 150.0, log=True, needs_order=True),
    }

    dim: int = Field(64, ge=1, le=2048)
    iterations: int | None = Field(None, ge=1)
    """None: as many of ITERATIONS as validation likes best."""
    choosing_iterations: int = Field(4, ge=1)
    """Iterations of each point that is tried while choosing."""
    unobserved: float | None = Field(None, gt=0)
    """α₀"""
    regularisation: float | None = Field(None, gt=0)
    """λ"""
    frequency_power: float = Field(1.0, ge=0)
    """ν"""
    fresh_days: float | None = Field(None, ge=0)
    """Days after which a training event weighs half; 0: all alike."""
    half_life: float | None = Field(None, ge=0)
    """Events after which an event of the history counts half; 0: no forgetting."""


class Ials:
    """A dot product of a folded-in person and an item; NaN where either has never been seen."""

    settings_type: ClassVar[type[Settings]] = IalsSettings
    refits: ClassVar[bool] = True

    def __init__(
        self, items: NDArray[np.float32], known: NDArray[np.bool_], settings: IalsSettings, report: FitReport
    ) -> None:
        self.settings: Settings = settings
        self._own = settings
        self.report = report
        self._items = items  # [I, D]
        self._known = known  # [I]
        self._memory = Memory(settings.half_life or 0.0)
        self._side = _Side.of(items, settings)

    @classmethod
    def preset(cls, data: TrainingData) -> IalsSettings:
        """More dimensions where people overlap little; fewer rounds where the log is large."""
        train = data.train
        sparse = train.event_count < 20 * train.user_count
        return IalsSettings(
            dim=256 if sparse else 64,
            iterations=8 if train.event_count > 5_000_000 else None,
            fresh_days=None if train.time_us is not None else 0.0,
            half_life=None if train.ordered else 0.0,
        )

    @classmethod
    def fit(cls, data: TrainingData, settings: IalsSettings, context: FitContext) -> Ials:
        """A round costs O(E · D² + (U + I) · D³); memory O((U + I) · D) beside the batches."""
        rounds = _Rounds(data, settings, context)
        chosen = rounds.choose()
        model = rounds.trained(chosen)
        model.report.notes["tried"] = rounds.tried
        return model

    @classmethod
    def fit_on(
        cls, data: TrainingData, settings: IalsSettings, context: FitContext, earlier: Earlier
    ) -> Ials:
        """One round from the earlier item vectors: least squares come back to where they were at once.

        A new item starts at zero and gets its vector from the people who touched it.
        """
        model: Any = earlier.model
        undecided = settings.unobserved is None or settings.regularisation is None
        if undecided or not isinstance(model, cls) or model.settings != settings:
            return cls.fit(data, settings, context)
        there = earlier.items >= 0
        items = np.zeros((data.train.item_count, settings.dim), np.float32)
        items[there] = model.item_vectors()[earlier.items[there]]
        return _Rounds(data, settings, context).further(items)

    def refit(self, data: TrainingData, context: FitContext) -> Ials:
        """On more data with what was chosen; one that went on from another goes on from itself."""
        if not self.report.notes.get(WARM):
            return type(self).fit(data, self._own, context)
        return _Rounds(data, self._own, context).further(self._items)

    def remembering(self, half_life: float) -> Self:
        """The same factors with another memory."""
        settings = self._own.model_copy(update={"half_life": half_life})
        return type(self)(self._items, self._known, settings, FitReport())

    def score(self, queries: Queries) -> ScoreMatrix:
        scores: ScoreMatrix = self.query_vectors(queries) @ self._items.T
        return silence_unknown(scores, queries, self._known)

    def item_vectors(self) -> NDArray[np.float32]:
        return self._items

    def query_vectors(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, D], folded in from the histories; zeros for a history without a known item."""
        weights = event_weights(queries, self._known, self._memory)
        used = weights > 0
        offsets = np.concatenate([[0], np.cumsum(used)])[queries.offsets]
        return self._side.solve(offsets, queries.item[used], weights[used])

    def save(self, writer: ArtifactWriter) -> None:
        writer.array("items", self._items)
        writer.array("known", self._known)

    @classmethod
    def load(cls, artifact: Artifact, settings: IalsSettings) -> Self:
        return cls(artifact.array("items"), artifact.array("known"), settings, FitReport())


@dataclass(frozen=True)
class _Side:
    """The fixed side of a half step, turned so that what all rows share is a diagonal.

    α₀ FᵀF = Q diag(shared) Qᵀ and turned = F Q: the system of a row is diag(shared + ridge) + a few outer
    products, in turned coordinates.
    """

    turned: NDArray[np.float32]  # [N, D]
    turn: NDArray[np.float32]  # [D, D]
    shared: NDArray[np.float32]  # [D]
    settings: IalsSettings

    @classmethod
    def of(cls, factors: NDArray[np.float32], settings: IalsSettings) -> _Side:
        gram = (settings.unobserved or 0.0) * (factors.T @ factors).astype(np.float64)
        shared, turn = np.linalg.eigh(gram)
        turn = turn.astype(np.float32)
        return cls(factors @ turn, turn, np.maximum(shared, 0.0).astype(np.float32), settings)

    def solve(
        self, offsets: NDArray[np.int64], column: NDArray[np.int32], weight: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[R, D]: row r minimises Σ weight (1 − x·f)² + α₀ Σ_all (x·f)² + ridge_r ‖x‖²; 0 if it is empty."""
        lengths = np.diff(offsets)
        answer = np.zeros((len(lengths), self.turned.shape[1]), np.float32)
        sizes = _padded(lengths)
        for size in np.unique(sizes[lengths > 0]):
            rows = np.flatnonzero((sizes == size) & (lengths > 0))
            step = max(1, BATCH_FLOATS // (int(size) * self.turned.shape[1]))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                places = offsets[part][:, None] + np.arange(size)  # [B, L]
                real = np.arange(size) < lengths[part][:, None]
                places = np.where(real, places, 0)
                weights = np.where(real, weight[places], np.float32(0))
                answer[part] = self._solve_alike(self.turned[column[places]], weights, lengths[part])
        return answer @ self.turn.T

    def _solve_alike(
        self, factors: NDArray[np.float32], weights: NDArray[np.float32], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """[B, D] in turned coordinates. factors: [B, L, D]; weights: [B, L], 0 where padded."""
        s = self.settings
        ridge = (lengths + (s.unobserved or 0.0) * len(self.turned)) ** s.frequency_power
        diagonal = self.shared + ((s.regularisation or 0.0) * ridge)[:, None].astype(np.float32)  # [B, D]
        root = np.sqrt(weights)
        scaled = factors * root[:, :, None]  # [B, L, D]
        size, dim = factors.shape[1:]
        if size < dim:  # the Woodbury identity: an L × L system instead of D × D
            eased = scaled / diagonal[:, None, :]
            system = eased @ scaled.transpose(0, 2, 1)  # [B, L, L]
            system[:, np.arange(size), np.arange(size)] += 1.0
            inner = np.linalg.solve(system, root[:, :, None])
            return (eased.transpose(0, 2, 1) @ inner)[:, :, 0]
        square = scaled.transpose(0, 2, 1) @ scaled  # [B, D, D]
        square[:, np.arange(dim), np.arange(dim)] += diagonal
        wanted = scaled.transpose(0, 2, 1) @ root[:, :, None]
        return np.linalg.solve(square, wanted)[:, :, 0]


def _padded(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths rounded up to a few sizes, at most an eighth above: rows of one size are solved together."""
    power = 2 ** np.floor(np.log2(np.maximum(lengths, 1)))
    grain = np.maximum(power / 8, 1)
    return (np.ceil(lengths / grain) * grain).astype(np.int64)


class _Rounds:
    """The data of both sides, and the choice of α₀ and λ on validation."""

    def __init__(self, data: TrainingData, settings: IalsSettings, context: FitContext) -> None:
        self.settings, self.context = settings, context
        self.train = data.train
        self.density = data.train.event_count / max(data.train.user_count * data.train.item_count, 1)
        self.known = data.train.item_counts > 0
        self.tried = 0
        self.holdout = None
        if data.validation is not None and len(data.validation):
            self.holdout = sample_holdout(data.validation, VALIDATION_USERS, context.seed)

    def choose(self) -> IalsSettings:
        """Few iterations for each point: the order of the points shows early."""
        points = self._pairs()
        if self.holdout is None:
            return points[0]
        asked = len(points) > 1 or points[0].fresh_days is None
        best, value = best_of(points, self._value) if asked else (points[0], 0.0)
        if best.fresh_days is not None or self.train.time_us is None:
            return best
        regularisation = best.regularisation or 0.0
        fresher = [
            best.model_copy(
                update={
                    "fresh_days": days,
                    "regularisation": self.settings.regularisation or regularisation * factor,
                }
            )
            for days, factor in _FRESH
        ]
        other, other_value = best_of(fresher, self._value)
        return other if other_value > value else best.model_copy(update={"fresh_days": 0.0})

    def _pairs(self) -> list[IalsSettings]:
        """The settings with each pair of α₀ and λ that is not given."""
        s = self.settings
        points = [
            s.model_copy(
                update={
                    "unobserved": s.unobserved or float(f"{times * self.density or 1.0:.2g}"),
                    "regularisation": s.regularisation or regularisation,
                }
            )
            for times, regularisation in _PAIRS
        ]
        return [point for at, point in enumerate(points) if point not in points[:at]]

    def _value(self, settings: IalsSettings) -> float:
        model = self.model(settings, settings.choosing_iterations)
        self.tried += 1
        assert self.holdout is not None  # noqa: S101 - choose() asks only with one
        return validation_ndcg(model.score, self.holdout)

    def further(self, items: NDArray[np.float32]) -> Ials:
        """One round from these item vectors."""
        model = self.model(self.settings, 1, items)
        model.report.notes[WARM] = True
        return model

    def trained(self, settings: IalsSettings) -> Ials:
        """With the given number of iterations, else that of the best validation; its settings say which.

        Each is judged with the memory that suits it: without one the early rounds look better than they are.
        """
        iterations = settings.iterations
        if iterations is not None or self.holdout is None:
            return self._remembering(self.model(settings, iterations or ITERATIONS[-1]))
        best, quality = None, -1.0
        for done, items in enumerate(self._sweeps(settings, ITERATIONS[-1]), start=1):
            if done in ITERATIONS:
                counted = settings.model_copy(update={"iterations": done})
                model = self._remembering(Ials(items, self.known, counted, FitReport()))
                value = validation_ndcg(model.score, self.holdout)
                if value > quality:
                    best, quality = model, value
        assert best is not None  # noqa: S101 - there are rounds
        return best

    def model(
        self, settings: IalsSettings, iterations: int, start: NDArray[np.float32] | None = None
    ) -> Ials:
        *_, items = self._sweeps(settings, iterations, start)
        return Ials(items, self.known, settings, FitReport())

    def _sweeps(
        self, settings: IalsSettings, iterations: int, start: NDArray[np.float32] | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """The item vectors [I, D] after each iteration."""
        draw = generator(self.context.seed, "ials")
        by_user = _fresh_matrix(self.train, settings.fresh_days or 0.0)
        by_item = by_user.T.tocsr()
        size = (self.train.item_count, settings.dim)
        items = (draw.standard_normal(size) * (0.1 / np.sqrt(settings.dim))).astype(np.float32)
        items = items if start is None else start.copy()
        items[~self.known] = 0.0
        for done in range(iterations):
            self.context.progress(done, iterations, "least squares")
            people = _half(items, by_user, settings)
            items = _half(people, by_item, settings)
            yield items

    def _remembering(self, model: Ials) -> Ials:
        """The same factors with the half-life that suits validation best, where none is given."""
        if self.settings.half_life is not None or self.holdout is None:
            return model
        made = [model.remembering(half_life) for half_life in _HALF_LIVES]
        self.tried += len(made)
        holdout = self.holdout
        return best_of(made, lambda tried: validation_ndcg(tried.score, holdout))[0]


def _half(fixed: NDArray[np.float32], matrix: Any, settings: IalsSettings) -> NDArray[np.float32]:
    """All rows of one side, given the other."""
    return _Side.of(fixed, settings).solve(matrix.indptr.astype(np.int64), matrix.indices, matrix.data)


def _fresh_matrix(train: Snapshot, fresh_days: float) -> sp.csr_matrix:
    """[U, I] float32: 0.5^(age / fresh_days) of each pair, times a constant so that the mean is 1."""
    if fresh_days == 0 or train.time_us is None:
        return train.matrix()
    times = np.asarray(train.time_us)
    weight = (0.5 ** ((times.max(initial=0) - times) / (fresh_days * DAY_US))).astype(np.float32)
    shape = (train.user_count, train.item_count)
    matrix = sp.csr_matrix((weight, train.item, train.offsets), shape=shape, copy=True)
    matrix.sum_duplicates()
    matrix.data = np.minimum(matrix.data, 1.0)  # a repeat is not worth more than the newest event
    matrix.data /= matrix.data.mean() if matrix.nnz else 1.0  # so that α₀ keeps its meaning
    return matrix


MODEL = Ials

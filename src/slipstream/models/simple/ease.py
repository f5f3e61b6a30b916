"""EASE: the linear item-item model with a closed form, and a memory that forgets.

    min_B ‖X − X B‖² + λ‖B‖²  with diag(B) = 0      =>      B = I − P · diag(1 / diag(P)),  P = (XᵀX + λ)⁻¹
    score(q)[i] = Σ over the events h of the history of  weight(rank of h) · B[item of h, i]

Source: Steck 2019, "Embarrassingly shallow autoencoders for sparse data". Different here:

- the events of the history are weighted by their rank from the end (chosen on validation; no forgetting
  where the data has no order), which is worth more than everything else on data with an order;
- of each row of B only the `neighbours` largest weights are kept, by magnitude or, where validation prefers
  it, of the positive ones;
- above `exact_items` items the inverse would cost I³ time and I² memory. Each item's regression is then
  restricted to the `support` items it shares most people with: the same problem with the other weights held
  at zero, and on sparse data as good as the whole inverse (Amazon Beauty: 5 CPU s instead of 40).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import scipy.linalg.lapack as lapack
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import Field

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import OneOf, Range, Settings, Space
from slipstream.dataset.queries import Queries
from slipstream.errors import ConfigError
from slipstream.models.history import Memory, event_weights, history_matrix, keep_largest, silence_unknown
from slipstream.models.recommender import FitContext, FitReport, ScoreMatrix, TrainingData
from slipstream.models.validation import sample_holdout, validation_ndcg

VALIDATION_USERS = 2_000
MOST_EXACT_ITEMS = 20_000
"""1.6 GB for one copy of the matrix, two of which are needed for a moment."""

_POINTS: Mapping[str, tuple[float | bool, ...]] = {
    "half_life": (0.0, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 100.0),
    "long_share": (0.1, 0.3),
    "positive": (True,),
}
_START: Mapping[str, float | bool] = {"half_life": 0.0, "long_share": 0.0, "ridge": 300.0, "positive": False}
RIDGE_STEP, MOST_RIDGE_STEPS = 3.0, 3
LOOKUPS = 40_000
"""Cells of the gathered rows above which searching them is cheaper than reading them."""


class EaseSettings(Settings):
    """None: chosen on validation."""

    space: ClassVar[Space] = {
        "ridge": Range(10.0, 3_000.0, log=True),
        "half_life": Range(0.5, 150.0, log=True, needs_order=True),
        "long_share": Range(0.0, 0.4, needs_order=True),
        "positive": OneOf((False, True)),
    }

    ridge: float | None = Field(None, gt=0)
    """λ"""
    half_life: float | None = Field(None, ge=0)
    """Events after which an event of the history counts half; 0: no forgetting."""
    long_share: float | None = Field(None, ge=0)
    positive: bool | None = None
    """Keep positive weights only."""
    neighbours: int = Field(500, ge=1)
    """Weights kept per item of the history."""
    exact_items: int = Field(6_000, ge=0, le=MOST_EXACT_ITEMS)
    """Up to so many items the inverse is taken whole."""
    support: int = Field(64, ge=1, le=1_000)
    """Items in each item's own regression, above that."""


class Ease:
    """Scores are sums over the history; NaN for a history of unknown items and for items never seen."""

    settings_type: ClassVar[type[Settings]] = EaseSettings
    refits: ClassVar[bool] = True

    def __init__(
        self, weights: sp.csr_matrix, known: NDArray[np.bool_], settings: EaseSettings, report: FitReport
    ) -> None:
        self.settings: Settings = settings
        self.report = report
        self._weights = weights  # [I, I], row: item of the history, column: item scored
        self._known = known  # [I]
        self._memory = Memory(settings.half_life or 0.0, settings.long_share or 0.0)

    @classmethod
    def preset(cls, data: TrainingData) -> EaseSettings:
        return EaseSettings() if data.train.ordered else EaseSettings(half_life=0.0, long_share=0.0)

    @classmethod
    def fit(cls, data: TrainingData, settings: EaseSettings, context: FitContext) -> Self:
        """O(I³) time and 2·I² floats up to `exact_items` items, else O(I · support³); once a ridge tried."""
        search = _Search(data, settings, context)
        chosen = search.choose()
        notes: dict[str, Any] = {"validation_ndcg": search.best, "tried": search.tried, "exact": search.exact}
        return cls(search.weights(chosen), search.known, chosen, FitReport(notes=notes))

    def score(self, queries: Queries) -> ScoreMatrix:
        """O(Σ counted events · neighbours)."""
        weighted = history_matrix(queries, self._known, self._memory)
        scores: ScoreMatrix = (weighted @ self._weights).toarray()
        return silence_unknown(scores, queries, self._known)

    def contributions(self, query: Queries, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[len(items), H]: weight of the event times B; the sum over H is the score."""
        weights = event_weights(query, self._known, self._memory)
        parts = np.zeros((len(items), len(query.item)), np.float32)
        counted = np.flatnonzero(weights)
        rows = self._weights[query.item[counted]].toarray()[:, np.asarray(items)]
        parts[:, counted] = (rows * weights[counted, None]).T
        return parts

    def save(self, writer: ArtifactWriter) -> None:
        writer.array("offsets", self._weights.indptr.astype(np.int64))
        writer.array("neighbour", self._weights.indices.astype(np.int32))
        writer.array("weight", self._weights.data)
        writer.array("known", self._known)

    @classmethod
    def load(cls, artifact: Artifact, settings: EaseSettings) -> Self:
        known = artifact.array("known")
        parts = (artifact.array("weight"), artifact.array("neighbour"), artifact.array("offsets"))
        return cls(sp.csr_matrix(parts, shape=(len(known), len(known))), known, settings, FitReport())


class _Search:
    """Coordinate search over the settings that are None; the regression is solved once per ridge."""

    def __init__(self, data: TrainingData, settings: EaseSettings, context: FitContext) -> None:
        self.settings = settings
        self.context = context
        self.known = data.train.item_counts > 0
        matrix = data.train.matrix()
        self.gram = (matrix.T @ matrix).tocsr().astype(np.float32)  # [I, I]: people who have both
        self.gram.sort_indices()
        self.exact = data.train.item_count <= settings.exact_items
        self.holdout = None
        if data.validation is not None and len(data.validation):
            self.holdout = sample_holdout(data.validation, VALIDATION_USERS, context.seed)
        self.tried = 0
        self.current = settings
        self.best: float | None = None
        self._solved: dict[tuple[float, bool], sp.csr_matrix] = {}
        self._ladder: dict[float, sp.csr_matrix] = {}

    def choose(self) -> EaseSettings:
        open_names = [name for name in _START if getattr(self.settings, name) is None]
        start = self.settings.model_copy(update={name: _START[name] for name in open_names})
        if self.holdout is None or not open_names:
            return start
        self.current, self.best = start, self._value(start)
        for name in ("half_life", "ridge", "half_life", "long_share", "positive"):  # two depend on each other
            if name in open_names:
                self._climb_ridge() if name == "ridge" else self._line(name)
        return self.current

    def _line(self, name: str) -> None:
        if name == "long_share" and self.current.half_life == 0:
            return  # no slow part where nothing is forgotten
        for point in _POINTS[name]:
            self._try(self.current.model_copy(update={name: point}))

    def _climb_ridge(self) -> None:
        """Up by steps while it gets better, else down."""
        for factor in (RIDGE_STEP, 1 / RIDGE_STEP):
            steps = 0
            while steps < MOST_RIDGE_STEPS and self._try(
                self.current.model_copy(update={"ridge": (self.current.ridge or 1.0) * factor})
            ):
                steps += 1
            if steps:
                return

    def _try(self, settings: EaseSettings) -> bool:
        """Keep `settings` if they are better than the best so far."""
        if settings == self.current:
            return False
        value = self._value(settings)
        if self.best is not None and value <= self.best:
            return False
        self.current, self.best = settings, value
        return True

    def _value(self, settings: EaseSettings) -> float:
        self.context.progress(self.tried, None, "choosing")
        self.tried += 1
        model = Ease(self.weights(settings), self.known, settings, FitReport())
        assert self.holdout is not None  # noqa: S101 - choose() asks only with one
        return validation_ndcg(model.score, self.holdout)

    def weights(self, settings: EaseSettings) -> sp.csr_matrix:
        ridge, positive = settings.ridge or 0.0, bool(settings.positive)
        if (ridge, positive) not in self._solved:
            if self.exact:
                found = exact_weights(self.gram, ridge, settings.neighbours, positive=positive)
            else:
                found = _kept(self._restricted(ridge), settings.neighbours, positive=positive)
            self._solved[ridge, positive] = found
        return self._solved[ridge, positive]

    def _restricted(self, ridge: float) -> sp.csr_matrix:
        """Gathering the small systems costs far more than solving them: the ladder is solved at once."""
        if ridge not in self._ladder:
            steps = [ridge]
            if self.settings.ridge is None and self.holdout is not None and not self._ladder:
                for factor in (RIDGE_STEP, 1 / RIDGE_STEP):
                    rung = ridge
                    for _ in range(MOST_RIDGE_STEPS):
                        rung *= factor  # the same product as in the climb, to the last bit
                        steps.append(rung)
            solved = restricted_weights(self.gram, steps, self.settings.support)
            self._ladder.update(zip(steps, solved, strict=True))
        return self._ladder[ridge]


def exact_weights(gram: sp.csr_matrix, ridge: float, neighbours: int, *, positive: bool) -> sp.csr_matrix:
    """B by one Cholesky inverse in float32, its `neighbours` largest weights per row. I³ flops, 2·I² floats.

    Float32 is enough: on MovieLens-1M the weights differ from float64 by 3e-6 at most. Raises ConfigError if
    the ridge is too small for the matrix to be inverted.
    """
    size = gram.shape[0]
    full = gram.toarray(order="F").astype(np.float32, copy=False)
    full[np.diag_indices(size)] += ridge
    factor, failed = lapack.spotrf(full, lower=1, overwrite_a=1, clean=0)
    if not failed:
        factor, failed = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise ConfigError(f"ease.ridge {ridge:g} is too small for this data", hint="try 100 or more")
    inverse = factor
    scale = 1.0 / np.diag(inverse)
    blocks = []
    for start in range(0, size, 512):
        stop = min(start + 512, size)
        # only the lower triangle was computed: a row is its left part and, mirrored, the column below
        rows = np.tril(inverse[start:stop], start)
        rows[:, start:] += np.tril(inverse[start:, start:stop], -1).T
        rows *= -scale
        rows[np.arange(stop - start), np.arange(start, stop)] = 0.0
        blocks.append(
            _kept(sp.csr_matrix(_largest_cells(rows, neighbours, positive)), neighbours, positive=positive)
        )
    return sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix(gram.shape, dtype=np.float32)


def _largest_cells(rows: NDArray[np.float32], limit: int, positive: bool) -> NDArray[np.float32]:
    """`rows` with everything below each row's limit-th largest weight set to zero."""
    size = np.maximum(rows, 0.0) if positive else np.abs(rows)
    if limit < rows.shape[1]:
        edge = np.partition(size, -limit, axis=1)[:, -limit][:, None]
        return np.where((size >= edge) & (size > 0), rows, np.float32(0))
    return np.where(size > 0, rows, np.float32(0))


def _kept(weights: sp.csr_matrix, limit: int, *, positive: bool) -> sp.csr_matrix:
    """The `limit` largest weights of each row by magnitude, or the largest positive ones."""
    if positive:
        weights = weights.multiply(weights > 0).tocsr()
    weights.eliminate_zeros()
    size = sp.csr_matrix((np.abs(weights.data), weights.indices, weights.indptr), weights.shape, copy=True)
    mask = keep_largest(size, limit)
    mask.data[:] = 1.0
    return weights.multiply(mask).tocsr()


def restricted_weights(gram: sp.csr_matrix, ridges: Sequence[float], support: int) -> list[sp.csr_matrix]:
    """Column i: the ridge regression of item i on the `support` items it shares most people with, per ridge.

    gram: [I, I] with sorted indices. O(I · support³) time a ridge; memory O(I · support) a ridge.
    """
    size = gram.shape[0]
    near = keep_largest(_without_diagonal(gram), support)
    near.sort_indices()
    place = np.full(size, -1)
    values = [np.zeros(near.nnz, np.float32) for _ in ridges]
    for item in range(size):
        own = slice(near.indptr[item], near.indptr[item + 1])
        chosen = near.indices[own]
        if not len(chosen):
            continue
        square = _submatrix(gram, chosen, place)
        diagonal = square.diagonal().copy()
        for solved, ridge in zip(values, ridges, strict=True):
            np.fill_diagonal(square, diagonal + np.float32(ridge))
            solved[own] = np.linalg.solve(square, near.data[own])
    # row i of `near` holds the regression of item i, which is column i of B
    return [sp.csr_matrix((v, near.indices, near.indptr), shape=gram.shape).T.tocsr() for v in values]


def _without_diagonal(gram: sp.csr_matrix) -> sp.csr_matrix:
    copy = gram.copy()
    copy.setdiag(0)
    copy.eliminate_zeros()
    return copy


def _submatrix(
    gram: sp.csr_matrix, chosen: NDArray[np.int32], place: NDArray[np.int64]
) -> NDArray[np.float32]:
    """gram[chosen][:, chosen], dense, faster than SciPy's own. place: [I] of -1, lent as working space."""
    starts, stops = gram.indptr[chosen], gram.indptr[chosen + 1]
    lengths = stops - starts
    square = np.zeros((len(chosen), len(chosen)), np.float32)
    if lengths.sum() > LOOKUPS:  # long rows: look for the few columns in each
        for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            columns = gram.indices[start:stop]
            found = np.minimum(np.searchsorted(columns, chosen), len(columns) - 1)
            square[row] = np.where(columns[found] == chosen, gram.data[start:stop][found], 0.0)
        return square
    index = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - starts, lengths)
    place[chosen] = np.arange(len(chosen))
    column = place[gram.indices[index]]
    place[chosen] = -1
    inside = column >= 0
    square[np.repeat(np.arange(len(chosen)), lengths)[inside], column[inside]] = gram.data[index[inside]]
    return square


MODEL = Ease

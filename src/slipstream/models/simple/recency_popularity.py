"""Recency popularity: what many people touched lately. The floor wherever taste moves with the calendar.

    score(q)[i] = Σ over the training events of item i of 0.5^(age / half-life) + a millionth of their number

age: time before the newest training event. The second part only orders items whose events have all faded. The
half-life is chosen on validation; data without a clock gives plain popularity.

Source: decayed popularity as in the baselines of Yambda (arXiv 2505.22238), where it beats trained models on
some boards.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import Settings
from slipstream.dataset.queries import Queries
from slipstream.dataset.snapshot import Snapshot
from slipstream.models.recommender import FitContext, FitReport, ScoreMatrix, TrainingData
from slipstream.models.validation import best_of, sample_holdout, validation_ndcg

DAY_US = 86_400_000_000
VALIDATION_USERS = 3_000
_HALF_LIVES_DAYS = (0.0, 365.0, 120.0, 40.0, 14.0, 5.0, 2.0)
FADED = 1e-6


class RecencyPopularitySettings(Settings):
    half_life_days: float | None = Field(None, ge=0)
    """Days after which an event counts half; 0: all count alike; None: chosen on validation."""


class RecencyPopularity:
    """The same row for everybody; NaN for an item without events."""

    settings_type: ClassVar[type[Settings]] = RecencyPopularitySettings
    refits: ClassVar[bool] = True

    def __init__(
        self, row: NDArray[np.float32], settings: RecencyPopularitySettings, report: FitReport
    ) -> None:
        self.settings: Settings = settings
        self.report = report
        self._row = row  # [I]

    @classmethod
    def preset(cls, data: TrainingData) -> RecencyPopularitySettings:
        return RecencyPopularitySettings(half_life_days=None if data.train.time_us is not None else 0.0)

    @classmethod
    def fit(cls, data: TrainingData, settings: RecencyPopularitySettings, context: FitContext) -> Self:
        """O(E) for each half-life that is tried."""
        points = _HALF_LIVES_DAYS if settings.half_life_days is None else (settings.half_life_days,)
        if data.train.time_us is None or data.validation is None or not len(data.validation):
            points = points[:1]
        made = [cls._made(data.train, RecencyPopularitySettings(half_life_days=days)) for days in points]
        if len(made) == 1 or data.validation is None:
            return made[0]
        sample = sample_holdout(data.validation, VALIDATION_USERS, context.seed)
        best, value = best_of(made, lambda model: validation_ndcg(model.score, sample))
        best.report.notes.update({"validation_ndcg": value, "tried": len(made)})
        return best

    @classmethod
    def _made(cls, train: Snapshot, settings: RecencyPopularitySettings) -> Self:
        counts = np.asarray(train.item_counts, np.float64)
        total = counts.copy()
        if train.time_us is not None and settings.half_life_days and train.event_count:
            times = np.asarray(train.time_us)
            age_days = (times.max() - times) / DAY_US
            fresh = 0.5 ** (age_days / settings.half_life_days)
            total = np.bincount(train.item, fresh, train.item_count) + FADED * counts
        row = np.where(counts > 0, total, np.nan).astype(np.float32)
        return cls(row, settings, FitReport())

    def score(self, queries: Queries) -> ScoreMatrix:
        return np.tile(self._row, (len(queries), 1))

    def save(self, writer: ArtifactWriter) -> None:
        writer.array("row", self._row)

    @classmethod
    def load(cls, artifact: Artifact, settings: RecencyPopularitySettings) -> Self:
        return cls(artifact.array("row"), settings, FitReport())


MODEL = RecencyPopularity

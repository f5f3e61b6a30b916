"""Popularity: every person gets what most events were about. The floor of every table, and the last fallback.

It assumes nothing and knows nobody: no order, no clock, no history. Source: counting.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import Settings
from slipstream.dataset.queries import Queries
from slipstream.models.recommender import FitContext, FitReport, ScoreMatrix, TrainingData


class PopularitySettings(Settings):
    """There is nothing to choose."""


class Popularity:
    """score(q)[i] = number of training events of item i; NaN for an item without events."""

    settings_type: ClassVar[type[Settings]] = PopularitySettings
    refits: ClassVar[bool] = True

    def __init__(self, counts: NDArray[np.int64], settings: PopularitySettings, report: FitReport) -> None:
        self.settings: Settings = settings
        self.report = report
        self._counts = counts
        # float32 holds whole numbers up to 2^24; more events than that on one item may tie with a neighbour
        self._row = np.where(counts > 0, counts, np.nan).astype(np.float32)

    @classmethod
    def preset(cls, data: TrainingData) -> PopularitySettings:
        return PopularitySettings()

    @classmethod
    def fit(cls, data: TrainingData, settings: PopularitySettings, context: FitContext) -> Self:
        """O(E)."""
        counts = np.asarray(data.train.item_counts, np.int64)
        return cls(counts, settings, FitReport(notes={"items_with_events": int((counts > 0).sum())}))

    def score(self, queries: Queries) -> ScoreMatrix:
        return np.tile(self._row, (len(queries), 1))

    def save(self, writer: ArtifactWriter) -> None:
        writer.array("counts", self._counts)

    @classmethod
    def load(cls, artifact: Artifact, settings: PopularitySettings) -> Self:
        return cls(artifact.array("counts"), settings, FitReport())


MODEL = Popularity

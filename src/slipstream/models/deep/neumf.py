"""Neural matching (NeuMF): a weighted product of two vectors and a small network over two others.

    score(u, i) = Σ_k w_k u_k i_k  +  tower(u', i')  +  popularity_i
    tower(u', i') = lastᵀ relu(second · relu(A u' + B i' + a) + c)

As in the bilinear model u and u' are a learned vector of the person plus the vectors of what the person
touched (divided by √n, or faded by rank), so a stranger with clicks is answered and the next click counts.

Source: He et al. 2017, "Neural collaborative filtering". Different here: sampled softmax in place of sampled
logistic loss, a history beside the id, no pre-training. `tower = false` is the plain product, the honest
rival: Rendle et al. 2020 (arXiv 2005.09683) find that a tuned product beats the learned similarity, and it
can be indexed. A tower cannot: asking costs O(I · hidden²) a person, so this model has no vectors to offer.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import load_file, save_file

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import OneOf, Range, Settings, Space
from slipstream.dataset.queries import Queries
from slipstream.errors import ConfigError
from slipstream.models.history import Memory, history_matrix, silence_unknown
from slipstream.models.recommender import FitContext, FitReport, ScoreMatrix, TrainingData
from slipstream.models.validation import best_of, sample_holdout, validation_ndcg

WEIGHTS = "weights.safetensors"
MIDDLE, HALF_LIVES = 5.0, (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
TOWER_CELLS = 4_000_000
"""Floats of the tower's first layer that are held at a time."""

Weights = dict[str, NDArray[np.float32]]


class NeuMFSettings(Settings):
    space: ClassVar[Space] = {
        "dim": OneOf((32, 64, 128)),
        "tower": OneOf((True, False)),
        "lr": Range(1e-3, 3e-2, log=True),
        "weight_decay": Range(1e-3, 1.0, log=True),
        "dropout": Range(0.0, 0.7),
        "negatives": OneOf((128, 256, 512)),
    }

    dim: int = Field(64, ge=1, le=1024)
    tower: bool = True
    """The network beside the product."""
    tower_dim: int = Field(32, ge=1, le=512)
    hidden: int = Field(32, ge=2, le=512)
    epochs: int = Field(12, ge=1)
    lr: float = Field(0.01, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    dropout: float = Field(0.3, ge=0, lt=1)
    negatives: int = Field(256, ge=1)
    users_per_batch: int = Field(64, ge=1)
    events_per_user: int = Field(16, ge=1)
    patience: int = Field(4, ge=1)
    validation_users: int = Field(1_000, ge=1)
    half_life: float | None = Field(None, ge=0)
    """Events after which an event of the history counts half; 0: no forgetting; None: by validation."""


class NeuMF:
    """NaN for items never seen and for strangers without a known item in the history."""

    settings_type: ClassVar[type[Settings]] = NeuMFSettings

    def __init__(self, weights: Weights, known: NDArray[np.bool_], settings: NeuMFSettings) -> None:
        self.settings: Settings = settings
        self.report = FitReport()
        self._own = settings
        self._weights = weights
        self._known = known  # [I]
        self._memory = Memory(MIDDLE if settings.half_life is None else settings.half_life)

    @classmethod
    def preset(cls, data: TrainingData) -> NeuMFSettings:
        memory = None if data.train.ordered else 0.0
        if data.train.event_count < 20 * data.train.user_count:
            return NeuMFSettings(users_per_batch=256, events_per_user=8, dropout=0.5, half_life=memory)
        return NeuMFSettings(half_life=memory)

    @classmethod
    def fit(cls, data: TrainingData, settings: NeuMFSettings, context: FitContext) -> Self:
        """An epoch costs O(U · events_per_user · negatives · hidden²) with the tower."""
        if not data.train.item_count or not data.train.user_count:
            raise ConfigError("neural matching needs at least one user and one item")
        from slipstream.training import neumf_course, people

        if settings.half_life is None and not data.train.ordered:
            settings = settings.model_copy(update={"half_life": 0.0})
        matrix = data.train.matrix()
        material = people.Material(
            matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), data.train.item_count, None, None
        )
        course = neumf_course.Course(**settings.model_dump(exclude={"validation_users", "half_life"}))
        known = data.train.item_counts > 0
        sample = None
        if data.validation is not None and len(data.validation):
            sample = sample_holdout(data.validation, settings.validation_users, context.seed)

        def value(model: NeuMF) -> float:
            return 0.0 if sample is None else validation_ndcg(model.score, sample)

        def validate(weights: Weights) -> float:
            found = value(NeuMF(weights, known, settings))
            context.watch(found)
            return found

        outcome = neumf_course.run(
            material,
            course,
            seed=context.seed,
            validate=None if sample is None else validate,
            progress=context.progress,
        )
        points = [settings.half_life] if settings.half_life is not None else list(HALF_LIVES)
        if sample is None:
            points = [MIDDLE if settings.half_life is None else settings.half_life]
        made = [cls(outcome.weights, known, settings.model_copy(update={"half_life": p})) for p in points]
        model = made[0] if len(made) == 1 else best_of(made, value)[0]
        model.report = FitReport(outcome.curve, {"best_epoch": outcome.best_epoch})
        return model

    def score(self, queries: Queries) -> ScoreMatrix:
        """O(I · (dim + hidden²)) a query."""
        w = self._weights
        user = self._people(queries, w["item"], w["person"]) * w["product"]
        scores = user @ w["item"].T + w["popularity"]
        if self._own.tower:
            left = self._people(queries, w["tower_item"], w["tower_person"]) @ w["from_person"]
            right = w["tower_item"] @ w["from_item"] + w["first_bias"]  # [I, h]
            step = max(1, TOWER_CELLS // max(right.size, 1))
            for start in range(0, len(queries), step):
                scores[start : start + step] += self._tower(left[start : start + step], right)
        return self._silenced(scores.astype(np.float32), queries)

    def _people(
        self, queries: Queries, items: NDArray[np.float32], own: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[Q, D]"""
        history = history_matrix(queries, self._known, self._memory)
        length = np.sqrt(np.asarray(history.multiply(history).sum(axis=1), np.float32).ravel())
        people: NDArray[np.float32] = (history @ items) / np.where(length > 0, length, 1.0)[:, None]
        met = (queries.user >= 0) & (queries.user < len(own))
        people[met] += own[queries.user[met]]
        return people

    def _tower(self, left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
        """[Q, I] from [Q, h] and [I, h]."""
        w = self._weights
        first = np.maximum(left[:, None, :] + right[None, :, :], 0.0).reshape(-1, right.shape[1])
        second = np.maximum(first @ w["second"] + w["second_bias"], 0.0)
        return np.asarray((second @ w["last"]).reshape(len(left), len(right)))

    def _silenced(self, scores: ScoreMatrix, queries: Queries) -> ScoreMatrix:
        met = (queries.user >= 0) & (queries.user < len(self._weights["person"]))
        kept = scores[met]
        scores = silence_unknown(scores, queries, self._known)
        kept[:, ~self._known] = np.nan
        scores[met] = kept  # a known person without a history still has a vector
        return scores

    def save(self, writer: ArtifactWriter) -> None:
        arrays = {name: np.ascontiguousarray(array) for name, array in self._weights.items()}
        save_file(arrays, writer.file(WEIGHTS))
        writer.array("known", self._known)

    @classmethod
    def load(cls, artifact: Artifact, settings: NeuMFSettings) -> Self:
        return cls(load_file(artifact.file(WEIGHTS)), artifact.array("known"), settings)


MODEL = NeuMF

"""f(u, i) = σ(uᵀ W i + b): which property of a user answers to which property of an item.

i is a learned vector, with the vectors of the item's features added where they are used. u is the sum of a
learned vector of the person, the vectors of the person's features, and the vectors of what the person touched
(divided by √n, or faded by rank from the end and divided by the length of the weights). So a stranger with
three clicks has a user vector and the next click moves it. One coordinate of u is the constant 1, and W hands
it to the item's popularity; b is one number.

Source: the bilinear form as in docs/concepts/bilinear.md. Differs: a ranking needs no σ, so `score` gives
uᵀWi + b; trained by the softmax over all items (or a sample of them), as a ranking is what is wanted; `loss =
"logistic"` trains the probabilities. The training knows no order; how fast an event fades is chosen on
validation afterwards, where the data has an order, and is worth half as much again on MovieLens-100K.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from safetensors.numpy import load_file, save_file

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import OneOf, Range, Settings, Space
from slipstream.dataset.queries import Queries
from slipstream.errors import ConfigError
from slipstream.models.history import Memory, event_weights, history_matrix
from slipstream.models.recommender import FitContext, FitReport, ScoreMatrix, TrainingData
from slipstream.models.validation import best_of, sample_holdout, validation_ndcg

WEIGHTS = "weights.safetensors"
FULL_SOFTMAX_ITEMS = 2_000
MIDDLE, HALF_LIVES = 5.0, (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Events; what is tried on validation once the vectors are learned, and what serves without one."""


class BilinearSettings(Settings):
    """The defaults suit a hundred thousand events; `preset` follows the data."""

    space: ClassVar[Space] = {
        "dim": OneOf((64, 128, 256)),
        "lr": Range(1e-3, 3e-2, log=True),
        "weight_decay": Range(1e-3, 1.0, log=True),
        "dropout": Range(0.0, 0.7),
        "events_per_user": OneOf((8, 16, 32)),
    }

    dim: int = Field(128, ge=1, le=1024)
    epochs: int = Field(14, ge=1)
    lr: float = Field(0.01, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    dropout: float = Field(0.3, ge=0, lt=1)
    loss: Literal["softmax", "sampled", "logistic"] = "softmax"
    negatives: int = Field(512, ge=1)
    users_per_batch: int = Field(64, ge=1)
    events_per_user: int = Field(16, ge=1)
    patience: int = Field(6, ge=1)  # epochs without a better validation before it stops
    validation_users: int = Field(2_000, ge=1)
    own_vector: bool = True
    """A learned vector per known person, beside the history."""
    features: bool = True
    """Use item and user features where the data has them."""
    half_life: float | None = Field(None, ge=0)
    """Events after which an event of the history counts half; 0: no forgetting; None: by validation."""


def bilinear(u: ArrayLike, w: ArrayLike, i: ArrayLike, b: float) -> float:
    """f(u, i) = σ(uᵀ W i + b) of one pair: the formula itself, a probability."""
    left, matrix, right = (np.asarray(x, np.float64) for x in (u, w, i))
    return float(1.0 / (1.0 + np.exp(-(left @ matrix @ right + b))))


class Bilinear:
    """User vector times matrix times item vector, plus a bias; the user vector follows the history."""

    settings_type: ClassVar[type[Settings]] = BilinearSettings

    def __init__(
        self,
        settings: BilinearSettings,
        item: NDArray[np.float32],
        mapped: NDArray[np.float32],
        person: NDArray[np.float32],
        known: NDArray[np.bool_],
    ) -> None:
        """item: [I, D]; mapped: [I, D + 2], row i is (W i, popularity, b); person: [U, D]; known: [I]."""
        self.settings: Settings = settings
        self.report = FitReport()
        self._memory = Memory(MIDDLE if settings.half_life is None else settings.half_life)
        self._item, self._mapped, self._person, self._known = item, mapped, person, known

    @classmethod
    def preset(cls, data: TrainingData) -> BilinearSettings:
        """All items in the softmax where they are few, a sample where not; the rest by the log's shape."""
        train = data.train
        memory = None if train.ordered else 0.0
        if train.item_count <= FULL_SOFTMAX_ITEMS and train.event_count <= 500_000:
            return BilinearSettings(half_life=memory)
        sampled = BilinearSettings(loss="sampled", negatives=1024, users_per_batch=128, half_life=memory)
        if train.event_count >= 20 * train.user_count:
            return sampled
        sparse = {"epochs": 10, "users_per_batch": 256, "events_per_user": 8, "dropout": 0.5}
        return sampled.model_copy(update=sparse)

    @classmethod
    def fit(cls, data: TrainingData, settings: Settings, context: FitContext) -> Self:
        own = _own(settings)
        if own.half_life is None and not data.train.ordered:
            own = own.model_copy(update={"half_life": 0.0})
        if not data.train.item_count or not data.train.user_count:
            raise ConfigError("the bilinear model needs at least one user and one item")
        from slipstream.training import bilinear_course, people

        history = sp.csr_matrix(data.train.matrix())
        items = data.item_features.matrix if own.features and data.item_features is not None else None
        users = data.user_features.matrix if own.features and data.user_features is not None else None
        material = people.Material(
            history.indptr.astype(np.int64),
            history.indices.astype(np.int32),
            data.train.item_count,
            items,
            users,
        )
        course = bilinear_course.Course(
            **own.model_dump(exclude={"validation_users", "features", "half_life"})
        )
        sample = (
            None
            if data.validation is None
            else sample_holdout(data.validation, own.validation_users, context.seed)
        )

        def made(weights: people.Weights) -> Bilinear:
            return cls._of(own, weights, items, users, data.train.item_counts > 0)

        def validate(weights: people.Weights) -> float:
            value = validation_ndcg(made(weights).score, sample) if sample is not None else 0.0
            context.watch(value)
            return value

        outcome = bilinear_course.run(
            material,
            course,
            seed=context.seed,
            threads=1,  # the products are small: a second thread waits more than it helps
            validate=None if sample is None else validate,
            progress=context.progress,
        )
        model = cls._of(own, outcome.weights, items, users, data.train.item_counts > 0)
        if own.half_life is None:
            points = HALF_LIVES if sample is not None else (MIDDLE,)
            remembering = [model._remembering(point) for point in points]
            model, _ = best_of(remembering, lambda m: validation_ndcg(m.score, sample) if sample else 0.0)
        model.report = FitReport(outcome.curve, {"best_epoch": outcome.best_epoch})
        return model

    def _remembering(self, half_life: float) -> Self:
        """The same vectors with another memory."""
        settings = _own(self.settings).model_copy(update={"half_life": half_life})
        return type(self)(settings, self._item, self._mapped, self._person, self._known)

    @classmethod
    def _of(
        cls,
        settings: BilinearSettings,
        weights: dict[str, NDArray[np.float32]],
        item_features: sp.csr_matrix | None,
        user_features: sp.csr_matrix | None,
        known: NDArray[np.bool_],
    ) -> Self:
        """The trained arrays as they are served: features added in, W multiplied out."""
        item = weights["item"]
        if item_features is not None:
            known = known | (np.diff(item_features.indptr) > 0)
            item = np.where(known[:, None], item, 0) + item_features @ weights["item_feature"]
        person = weights.get("user")
        if user_features is not None:
            features = user_features @ weights["user_feature"]
            person = features if person is None else person + features
        if person is None:
            person = np.zeros((0, item.shape[1]), np.float32)
        mapped = np.concatenate(
            [
                item @ weights["matrix"].T,
                weights["popularity"][:, None],
                np.broadcast_to(weights["bias"], (len(item), 1)),
            ],
            axis=1,
        )
        item, mapped, person = (np.ascontiguousarray(x, np.float32) for x in (item, mapped, person))
        return cls(settings, item, mapped, person, known)

    def query_vectors(self, queries: Queries) -> NDArray[np.float32]:
        """[Q, D + 2]: (u, 1, 1); NaN for a stranger without a known item in the history."""
        history = history_matrix(queries, self._known, self._memory)
        length = _lengths(history)
        user = (history @ self._item) / np.where(length > 0, length, 1.0)[:, None]
        person = (queries.user >= 0) & (queries.user < len(self._person))
        user[person] += self._person[queries.user[person]]
        user[(length == 0) & ~person] = np.nan
        return np.concatenate([user, np.ones((len(queries), 2))], axis=1).astype(np.float32)

    def item_vectors(self) -> NDArray[np.float32]:
        """[I, D + 2]"""
        return self._mapped

    def score(self, queries: Queries) -> ScoreMatrix:
        scores: ScoreMatrix = self.query_vectors(queries) @ self._mapped.T
        scores[:, ~self._known] = np.nan
        return scores

    def contributions(self, query: Queries, items: NDArray[np.int32]) -> NDArray[np.float32]:
        """[len(items), H]: the share of uᵀWi that each history event brings; exact, as u is a sum."""
        parts = np.zeros((len(items), len(query.item)), np.float32)
        weights = event_weights(query, self._known, self._memory)
        events = np.flatnonzero(weights)
        if len(events):
            length = _lengths(history_matrix(query, self._known, self._memory))[0]
            brought = self._item[query.item[events]] * (weights[events] / length)[:, None]
            parts[:, events] = self._mapped[items, : self._item.shape[1]] @ brought.T
        return parts

    def save(self, writer: ArtifactWriter) -> None:
        arrays = {"item": self._item, "mapped": self._mapped, "person": self._person}
        save_file(arrays, writer.file(WEIGHTS))
        writer.array("known", self._known)

    @classmethod
    def load(cls, artifact: Artifact, settings: Settings) -> Self:
        weights = load_file(artifact.file(WEIGHTS))
        return cls(
            _own(settings), weights["item"], weights["mapped"], weights["person"], artifact.array("known")
        )


def _lengths(history: sp.csr_matrix) -> NDArray[np.float32]:
    """[Q] the Euclidean length of each row of weights: √n where all count alike."""
    return np.sqrt(np.asarray(history.multiply(history).sum(axis=1), np.float32).ravel())


def _own(settings: Settings) -> BilinearSettings:
    if not isinstance(settings, BilinearSettings):
        raise ConfigError(f"the bilinear model needs BilinearSettings, got {type(settings).__name__}")
    return settings


MODEL = Bilinear

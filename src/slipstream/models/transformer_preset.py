"""The transformer's settings for data nobody has tuned to.

Chosen by how many events and items there are, and events a user; within BUDGET of arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slipstream.config import with_overrides
from slipstream.models.recommender import TrainingData
from slipstream.training.transformer_settings import TransformerSettings

BUDGET = 1.5e14  # floating-point operations of a training: 7 minutes of a quiet core, 15 of a shared one
RARE = 30  # events an item below which its neighbours know it better than its own events do
FULL_SOFTMAX = 10**10  # items times events above which the full softmax alone would eat the budget
LEAST_EPOCHS = 6  # fewer than that on the large network, and the small one learns more


def preset_of(data: TrainingData) -> TransformerSettings:
    return _within_budget(_shaped(data), data)


def _shaped(data: TrainingData) -> TransformerSettings:
    """The settings for the shape of the data, were time no matter."""
    train = data.train
    now_known = data.validation is not None and data.validation.queries.now_us is not None
    base = TransformerSettings(query_time=now_known)
    changes: dict[str, Any]
    if train.event_count < 20_000:
        changes = {"epochs": 60, "batch_tokens": 512, "shards": 1}
    elif train.event_count < 30 * train.user_count:
        changes = _short_histories(data)
    elif train.event_count < 400_000:
        changes = {"epochs": 16, "batch_tokens": 1024, "lr": 2e-3, "table_lr": 2e-3, "validate_every": 2}
    else:
        changes = {"dim": 128, "layers": 4, "heads": 4, "epochs": 16, "validate_every": 2}
    if 20_000 <= train.event_count < RARE * train.item_count and _all_compared(data):
        changes["neighbour_share"] = 2.0
    return with_overrides(base, changes)


def _short_histories(data: TrainingData) -> dict[str, Any]:
    """Few events an item: much dropout, and vectors that lean on neighbours and features.

    A wide network then learns within few epochs and overfits in the next; without features it needs more.
    """
    changes: dict[str, Any] = {
        "dim": 128, "attention_window": 50, "max_length": 50, "dropout": 0.5, "attention_dropout": 0.5,
        "output": "cosine", "content": True, "epochs": 4 if data.item_features is not None else 6,
        "batch_tokens": 512, "shards": 1, "clip": 5.0, "validation_users": 8192,
    }  # fmt: skip
    if _all_compared(data):
        changes |= {"dim": 256, "heads": 4, "neighbour_share": 2.0}
    return changes


def _all_compared(data: TrainingData) -> bool:
    """Whether the loss can afford to compare with every item."""
    return data.train.item_count * data.train.event_count <= FULL_SOFTMAX


def _within_budget(settings: TransformerSettings, data: TrainingData) -> TransformerSettings:
    """Fewer epochs, and before that a sampled loss and a smaller network, where it would take too long."""
    train = data.train
    tokens = max(train.event_count - train.user_count, 1)
    if settings.recent:
        tokens = int(np.minimum(np.diff(train.offsets), settings.recent).sum())
    if train.item_count * tokens > FULL_SOFTMAX:
        settings = with_overrides(
            settings, {"loss": "sampled", "targets": 1, "batch_tokens": 4096, "shards": 2}
        )
    epochs = BUDGET / (tokens * _flops_per_token(settings, train.item_count))
    if epochs < LEAST_EPOCHS:
        settings = with_overrides(settings, {"dim": 64, "layers": 2, "heads": 2})
        epochs = BUDGET / (tokens * _flops_per_token(settings, train.item_count))
    return with_overrides(settings, {"epochs": max(1, min(settings.epochs, round(epochs)))})


def _flops_per_token(settings: TransformerSettings, items: int) -> float:
    """Of training: forward and twice as much backward, for the layers' matrices and the loss.

    A step also passes over the whole item table several times; by the clock that equals some 400
    operations a number.
    """
    compared = settings.negatives if settings.loss in ("sampled", "gbce") else items
    products = 6.0 * settings.dim * (12 * settings.dim * settings.layers + compared)
    passes = 400.0 + (75.0 * settings.neighbours if settings.neighbour_share else 0.0)
    return products + passes * items * settings.dim / settings.batch_tokens

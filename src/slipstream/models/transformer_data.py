"""What the training of a transformer sees of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from slipstream.errors import BadInput, MissingExtra
from slipstream.features.graph import entity_features
from slipstream.models.recommender import TrainingData
from slipstream.training.packing import SoftLabels
from slipstream.training.transformer_settings import TransformerSettings

if TYPE_CHECKING:
    from slipstream.training.transformer_course import Interactions


def interactions_of(
    data: TrainingData, settings: TransformerSettings, labels: SoftLabels | None
) -> Interactions:
    """The histories, and the features that are wanted and there. labels: of the events of `data.train`."""
    try:
        from slipstream.training.transformer_course import Interactions
    except ModuleNotFoundError as error:
        raise MissingExtra("torch", "train", "training a transformer") from error
    train = data.train
    if not train.event_count:
        raise BadInput("there are no events to train on")
    return Interactions(
        offsets=np.asarray(train.offsets),
        item=np.asarray(train.item),
        time_us=None if train.time_us is None else np.asarray(train.time_us),
        items=train.item_count,
        ordered=train.ordered,
        content=content_of(data, settings),
        people=data.user_features.matrix if settings.people and data.user_features is not None else None,
        labels=labels,
    )


def content_of(data: TrainingData, settings: TransformerSettings) -> sp.csr_matrix | None:
    """[I, F]: features of the catalogue and of the graph, as far as they are wanted and there."""
    parts = []
    if settings.content and data.item_features is not None:
        parts.append(data.item_features.matrix)
    if settings.graph_content and data.graph is not None:
        parts.append(entity_features(data.graph))
    return sp.csr_matrix(sp.hstack(parts, dtype=np.float32)) if parts else None

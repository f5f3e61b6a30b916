"""slipstream itself, asked as the peers are: any model of its registry with its preset."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from answering import Data, run

from slipstream.artifacts import open_artifact, writing
from slipstream.config import with_overrides
from slipstream.dataset.queries import queries_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.dataset.validation import hold_out_last
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.models.recommender import FitContext, TrainingData, refit, refits
from slipstream.models.registry import model_type, save_model
from slipstream.recommend.ranking import rank


def fit(data: Data, settings: dict[str, Any]) -> Any:
    own = dict(settings)
    kind = model_type(own.pop("model"))
    frame = pl.DataFrame({"user_id": data.user, "item_id": data.item, "time_us": data.time_us}).cast(
        {"user_id": str, "item_id": str}
    )
    users, items = (Vocabulary.of([str(n) for n in range(count)]) for count in (data.users, data.items))
    snapshot = snapshot_of(frame, users=users, items=items)
    train, validation = hold_out_last(snapshot, seed=data.seed)
    training = TrainingData(train, validation)
    context = FitContext(seed=data.seed)
    model = kind.fit(training, with_overrides(kind.preset(training), own), context)
    return (refit(model, TrainingData(snapshot), context) if refits(model) else model), snapshot


def top(fitted: Any, users: np.ndarray, k: int) -> np.ndarray:
    model, snapshot = fitted
    return rank(model, queries_of(snapshot, users), k)[0]


def size(fitted: Any) -> int:
    """Of the model's folder."""
    with tempfile.TemporaryDirectory() as folder:
        with writing(Path(folder) / "model", "model") as writer:
            save_model("model", fitted[0], writer)
        return open_artifact(Path(folder) / "model", "model").size()


if __name__ == "__main__":
    run(fit, top, "slipstream", size)

"""LensKit: implicit matrix factorisation in its top-n pipeline."""

from typing import Any

import numpy as np
import pandas as pd
from answering import Data, run
from lenskit import recommend
from lenskit.als import ImplicitMFScorer
from lenskit.data import from_interactions_df
from lenskit.pipeline import topn_pipeline


def fit(data: Data, settings: dict[str, Any]) -> Any:
    frame = pd.DataFrame({"user_id": data.user, "item_id": data.item})
    pipeline = topn_pipeline(ImplicitMFScorer(**settings))
    pipeline.train(from_interactions_df(frame))
    return pipeline


def top(fitted: Any, users: np.ndarray, k: int) -> np.ndarray:
    lists = np.full((len(users), k), -1)
    for row, user in enumerate(users):
        found = recommend(fitted, user, n=k).ids()
        lists[row, : len(found)] = found
    return lists


if __name__ == "__main__":
    run(fit, top, "lenskit")

"""RecTools: EASE, or its SASRec."""

from typing import Any

import numpy as np
import pandas as pd
from answering import Data, run
from rectools import Columns
from rectools import models as rectools_models
from rectools.dataset import Dataset


def fit(data: Data, settings: dict[str, Any]) -> Any:
    own = dict(settings)
    kind = getattr(rectools_models, own.pop("model"))
    when = pd.to_datetime(np.arange(len(data.user)), unit="s")
    dataset = Dataset.construct(
        pd.DataFrame(
            {Columns.User: data.user, Columns.Item: data.item, Columns.Weight: 1, Columns.Datetime: when}
        )
    )
    return kind(**own).fit(dataset), dataset


def top(fitted: Any, users: np.ndarray, k: int) -> np.ndarray:
    model, dataset = fitted
    lists = np.full((len(users), k), -1)
    found = model.recommend(users, dataset, k=k, filter_viewed=True)
    place = pd.Series(np.arange(len(users)), index=users)
    lists[place[found[Columns.User]], found[Columns.Rank] - 1] = found[Columns.Item]
    return lists


if __name__ == "__main__":
    run(fit, top, "rectools")

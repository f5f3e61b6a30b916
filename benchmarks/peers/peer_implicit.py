"""implicit: alternating least squares."""

from typing import Any

import numpy as np
from answering import Data, run
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix


def fit(data: Data, settings: dict[str, Any]) -> Any:
    seen = csr_matrix((np.ones(len(data.user), np.float32), (data.user, data.item)), (data.users, data.items))
    model = AlternatingLeastSquares(**settings, random_state=data.seed, num_threads=1)
    model.fit(seen, show_progress=False)
    return model, seen


def top(fitted: Any, users: np.ndarray, k: int) -> np.ndarray:
    model, seen = fitted
    return model.recommend(users, seen[users], N=k, filter_already_liked_items=True)[0]


if __name__ == "__main__":
    run(fit, top, "implicit")

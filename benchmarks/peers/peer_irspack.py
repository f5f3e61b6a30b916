"""irspack: iALS."""

from typing import Any

import numpy as np
from answering import Data, best, run
from irspack import IALSRecommender
from scipy.sparse import csr_matrix


def fit(data: Data, settings: dict[str, Any]) -> Any:
    seen = csr_matrix((np.ones(len(data.user)), (data.user, data.item)), (data.users, data.items))
    return IALSRecommender(seen, **settings, random_seed=data.seed, n_threads=1).learn()


def top(fitted: Any, users: np.ndarray, k: int) -> np.ndarray:
    return best(fitted.get_score_remove_seen(users), k)


if __name__ == "__main__":
    run(fit, top, "irspack")

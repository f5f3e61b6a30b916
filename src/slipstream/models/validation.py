"""How models choose among their own settings: NDCG@10 of held-out events, inside the training data only.

The full metrics live above, in `evaluation`; models may not look up there. This is the one number that every
fit chooses by, the same formula: true NDCG (the ideal list holds all targets), seen items removed unless the
holdout says that they may come again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.queries import Holdout, Queries, excluded_mask
from slipstream.inference.retriever import top_k
from slipstream.randomness import generator

BATCH = 512

Choice = TypeVar("Choice")


def validation_ndcg(
    score: Callable[[Queries], NDArray[np.float32]],
    holdout: Holdout,
    *,
    k: int = 10,
    batch: int = BATCH,
) -> float:
    """Mean NDCG@k over the queries of `holdout` that have targets; 0 if there is none.

    score: queries to [Q, I], NaN where there is nothing to say. Cost: one scoring of the holdout in parts of
    `batch`. A target that the person has touched, and so may not be recommended, is a miss, as in a trial.
    """
    total, counted = 0.0, 0
    for start, part in holdout.queries.batches(batch):
        scores = score(part)
        values = batch_ndcg(scores, holdout, start, k=k)
        total += float(values.sum())
        counted += len(values)
    return total / counted if counted else 0.0


def batch_ndcg(
    scores: NDArray[np.float32], holdout: Holdout, start: int, *, k: int = 10
) -> NDArray[np.float64]:
    """NDCG@k of the queries start to start + len(scores) that have targets. scores: [Q, I], not changed."""
    stop = start + len(scores)
    part = holdout.queries.part(start, stop)
    wanted = target_mask(holdout, start, stop, scores.shape[1])
    targets = wanted.sum(axis=1)
    excluded = excluded_mask(part, scores.shape[1], repeat=holdout.repeat)
    if targets.size and targets.max() == 1 == targets.min():
        return _single_target_ndcg(scores, excluded, wanted.argmax(axis=1), k)
    found, _ = top_k(scores, k, excluded=excluded)
    hits = (found >= 0) & np.take_along_axis(wanted, np.maximum(found, 0), axis=1)
    discount = 1.0 / np.log2(np.arange(2, found.shape[1] + 2))
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    has = targets > 0
    gains: NDArray[np.float64] = (hits[has] * discount).sum(axis=1) / ideal[np.minimum(targets[has], k)]
    return gains


def _single_target_ndcg(
    scores: NDArray[np.float32], excluded: NDArray[np.bool_], target: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """With one target a query, its rank is a count: a tenth of the cost of sorting out the best k."""
    rows = np.arange(len(scores))
    own = scores[rows, target][:, None]
    columns = np.arange(scores.shape[1])
    with np.errstate(invalid="ignore"):
        ahead = (scores > own) | ((scores == own) & (columns < target[:, None]))
    rank = (ahead & ~excluded).sum(axis=1)
    gain = np.where(rank < k, 1.0 / np.log2(rank + 2.0), 0.0)
    lost = np.isnan(own[:, 0]) | (own[:, 0] == -np.inf) | excluded[rows, target]
    return np.where(lost, 0.0, gain)


def target_mask(holdout: Holdout, start: int, stop: int, items: int) -> NDArray[np.bool_]:
    """[stop - start, items], True at the targets of queries start to stop."""
    mask = np.zeros((stop - start, items), bool)
    rows = np.repeat(np.arange(stop - start), np.diff(holdout.offsets[start : stop + 1]))
    mask[rows, holdout.target[holdout.offsets[start] : holdout.offsets[stop]]] = True
    return mask


def sample_holdout(holdout: Holdout, limit: int, seed: int) -> Holdout:
    """At most `limit` queries, drawn with `seed`, in their order. The first ones are not a fair sample."""
    if len(holdout) <= limit:
        return holdout
    chosen = np.sort(generator(seed, "validation sample").choice(len(holdout), limit, replace=False))
    return holdout.select(chosen)


def best_of(choices: Iterable[Choice], value: Callable[[Choice], float]) -> tuple[Choice, float]:
    """The first choice with the highest value: a tie keeps the earlier one, so list the simpler first."""
    ranked = [(choice, value(choice)) for choice in choices]
    return max(ranked, key=lambda pair: pair[1])

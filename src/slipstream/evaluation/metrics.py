"""Each metric: a pure function from ranked lists and targets to one number per query.

A list is a row of `items` [Q, K], best first; -1 is a place without an answer. The targets of query q are
`holdout.targets(q)`, distinct items. n is their number, h(r) is 1 where rank r (1 = best) holds one of them.

Ties are settled before the metrics: a list has one order (`inference.retriever.top_k`: by item number).
Empty cases: an empty list scores 0. A query without targets has no score: NaN, left out of every mean.
A repeated item counts once, at its first place. A list shorter than k counts as filled up with misses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.queries import Holdout

Values = NDArray[np.float64]
"""One number per query, [Q]; NaN where the metric is not defined."""

ItemLists = NDArray[np.int32]
"""[Q, K], best first; -1: no answer."""


@dataclass(frozen=True)
class Hits:
    """Where the lists hit their targets."""

    hit: NDArray[np.bool_]  # [Q, K]
    wanted: NDArray[np.int64]  # [Q], the number of targets

    def __len__(self) -> int:
        return len(self.wanted)

    def cut(self, k: int) -> NDArray[np.float64]:
        """h(r) for r = 1..k, [Q, min(k, K)]."""
        if k < 1:
            raise ValueError(f"a metric must be cut at 1 or more, got {k}")
        return self.hit[:, :k].astype(np.float64)


def hits_of(items: ItemLists, holdout: Holdout) -> Hits:
    """Compare lists [Q, K] with the targets of the same Q queries. O(Q·K·log T)."""
    if len(items) != len(holdout):
        raise ValueError(f"{len(items)} lists for {len(holdout)} queries")
    wanted = np.diff(holdout.offsets)
    lists = items.astype(np.int64)
    width = 1 + max(int(lists.max(initial=-1)), int(holdout.target.max(initial=-1)))
    query = np.arange(len(holdout), dtype=np.int64)
    keys = query[:, None] * width + lists
    target_keys = np.repeat(query, wanted) * width + holdout.target
    hit = np.isin(keys, target_keys) & (lists >= 0) & ~repeated(items)
    return Hits(hit, wanted.astype(np.int64))


def repeated(items: ItemLists) -> NDArray[np.bool_]:
    """[Q, K], True where the same item stands further up in the same list."""
    order = np.argsort(items, axis=1, kind="stable")
    inside = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, bool)
    again[:, 1:] = (inside[:, 1:] == inside[:, :-1]) & (inside[:, 1:] >= 0)
    found = np.zeros_like(again)
    np.put_along_axis(found, order, again, axis=1)
    return found


def _discounts(length: int) -> Values:
    """1 / log2(r + 1) for r = 1..length."""
    return 1.0 / np.log2(np.arange(2, length + 2, dtype=np.float64))


def _ideal(count: NDArray[np.int64], k: int) -> Values:
    """Σ 1 / log2(r + 1) over the first min(k, count) ranks, [Q]."""
    sums = np.concatenate([[0.0], np.cumsum(_discounts(k))])
    return sums[np.minimum(count, k)]


def _of_those_with_targets(values: Values, hits: Hits) -> Values:
    return np.where(hits.wanted > 0, values, np.nan)


def hit_rate(hits: Hits, k: int) -> Values:
    """HR@k: 1 if any of the first k is a target, else 0."""
    return _of_those_with_targets(hits.cut(k).max(axis=1, initial=0.0), hits)


def ndcg(hits: Hits, k: int) -> Values:
    """NDCG@k = Σ_r h(r) / log2(r + 1) ÷ Σ_{r ≤ min(k, n)} 1 / log2(r + 1): binary gain.

    The ideal is over the targets. Järvelin and Kekäläinen 2002 with base 2 and gain 0 or 1.
    """
    gained = hits.cut(k) @ _discounts(min(k, hits.hit.shape[1]))
    return _of_those_with_targets(gained / np.maximum(_ideal(hits.wanted, k), 1.0), hits)


def mrr(hits: Hits, k: int) -> Values:
    """MRR@k: 1 / rank of the first target among the first k, 0 if there is none."""
    found = hits.cut(k)
    ranks = np.arange(1, found.shape[1] + 1, dtype=np.float64)
    return _of_those_with_targets((found / ranks).max(axis=1, initial=0.0), hits)


def precision(hits: Hits, k: int) -> Values:
    """Precision@k = targets among the first k ÷ k (k, also where the list is shorter)."""
    return _of_those_with_targets(hits.cut(k).sum(axis=1) / k, hits)


def recall(hits: Hits, k: int) -> Values:
    """Recall@k = targets among the first k ÷ n (n, also where n > k, so it may not reach 1)."""
    return _of_those_with_targets(hits.cut(k).sum(axis=1) / np.maximum(hits.wanted, 1), hits)


def literature_ndcg(hits: Hits, k: int) -> Values:
    """The "NDCG" of the path-reasoning literature (KGGLM, PEARLM, KGAT): not NDCG, shown to compare only.

    Its ideal is taken over the *hits of the list itself*, not over the targets: one hit at rank 1 gives 1,
    however many targets were missed. 0 without a hit.
    """
    found = hits.cut(k)
    ideal = _ideal(found.sum(axis=1).astype(np.int64), k)
    return _of_those_with_targets(found @ _discounts(found.shape[1]) / np.maximum(ideal, 1.0), hits)


Metric = Callable[[Hits, int], Values]

ACCURACY: Mapping[str, Metric] = MappingProxyType(
    {"HR": hit_rate, "NDCG": ndcg, "MRR": mrr, "Precision": precision, "Recall": recall}
)
LITERATURE: Mapping[str, Metric] = MappingProxyType({"LiteratureNDCG": literature_ndcg})


def accuracy(
    items: ItemLists, holdout: Holdout, cutoffs: Iterable[int], metrics: Mapping[str, Metric] = ACCURACY
) -> dict[str, Values]:
    """`name@cutoff` → values [Q] of every metric at every cutoff."""
    hits = hits_of(items, holdout)
    return {f"{name}@{k}": metric(hits, k) for k in sorted(set(cutoffs)) for name, metric in metrics.items()}


def mean(values: Values) -> float:
    """The mean over the queries where the metric is defined; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


# Beyond accuracy: what the lists are made of. These need no targets.


def coverage(items: ItemLists, k: int, item_count: int) -> float:
    """Coverage@k: distinct items in all first k places ÷ items that could be there; 0 without items."""
    shown = items[:, :k]
    return len(np.unique(shown[shown >= 0])) / item_count if item_count else 0.0


def novelty(items: ItemLists, k: int, user_counts: NDArray[np.int64], users: int) -> Values:
    """Novelty@k: mean self-information -log2 p(i) of the first k, in bits, [Q]; NaN for an empty list.

    p(i) = users who touched i in training ÷ users (Zhou et al. 2010). An item that nobody touched counts as
    touched by one, so that it is finite. user_counts: [I].
    """
    share = np.maximum(user_counts, 1) / max(users, 1)
    return _mean_over_list(items, k, -np.log2(share))


def average_popularity(items: ItemLists, k: int, user_counts: NDArray[np.int64], users: int) -> Values:
    """AveragePopularity@k: mean share of the training users who touched the first k, [Q]; NaN if empty."""
    return _mean_over_list(items, k, user_counts / max(users, 1))


def _mean_over_list(items: ItemLists, k: int, per_item: NDArray[np.float64]) -> Values:
    shown = items[:, :k]
    there = shown >= 0
    sums = np.where(there, per_item[np.where(there, shown, 0)], 0.0).sum(axis=1) if len(per_item) else 0.0
    length = there.sum(axis=1)
    return np.where(length > 0, sums / np.maximum(length, 1), np.nan)


def gini(items: ItemLists, k: int, item_count: int) -> float:
    """Gini@k of how often each item is shown in the first k: 0 all alike, towards 1 one item only. 0 if none.

    G = Σ_j (2j - I - 1) x_j ÷ (I Σ x), x sorted ascending, j = 1..I, over all items that could be shown.
    """
    shown = items[:, :k]
    counts = np.sort(np.unique(shown[shown >= 0], return_counts=True)[1]).astype(np.float64)
    total = counts.sum()
    if total == 0 or item_count == 0:
        return 0.0
    # The items that are never shown have x = 0 and come first: they only shift j.
    place = np.arange(item_count - len(counts) + 1, item_count + 1, dtype=np.float64)
    return float(((2 * place - item_count - 1) * counts).sum() / (item_count * total))

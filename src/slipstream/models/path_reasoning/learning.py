"""How the gammas of the path model are learned, inside the training data.

A probe hides the last events of some people (as many as validation hides). Derived relations are drawn anew
from what is left, so that neither a target edge nor anything derived from it is walked over; what is learned
is then used with relations drawn from all of the training data. With every gamma in place but the weights of
the relations, a score is linear in those weights: the softmax loss is convex, and its minimum under w >= 0
is found by L-BFGS-B, always the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from slipstream.config import Progress, silent
from slipstream.dataset.queries import Holdout, Queries, queries_of
from slipstream.dataset.snapshot import Snapshot
from slipstream.models.validation import BATCH, validation_ndcg
from slipstream.randomness import generator

_MOST_CELLS = 40_000_000  # of the feature tensor, float32: 160 MB
_MOST_CANDIDATES = 4_000
_FEWEST_QUERIES = 200
_MOST_HIDDEN = 1_500
_MOST_TARGETS = 30  # of one query
_SHRINK = 1e-3  # of the loss per unit of weight in units of its feature: what carries nothing becomes zero


@dataclass(frozen=True)
class Probe:
    """What is left of the training data, and what some people did next."""

    rest: Snapshot
    holdout: Holdout


def horizon_of(validation: Holdout | None) -> float:
    """The share of a history that is asked about; 0: the next event only."""
    if validation is None or not len(validation):
        return 0.0
    targets = len(validation.target) / len(validation)
    if targets < 1.5:
        return 0.0
    past = len(validation.queries.item) / len(validation)
    return float(np.clip(targets / (targets + past), 0.02, 0.5))


def probe_of(train: Snapshot, horizon: float, users: int, seed: int) -> Probe:
    """Hide the last event (or the last `horizon` of the events) of `users` people with at least 4 events.

    Without an order random events are hidden. Someone is always left with at least two events.
    """
    rng = generator(seed, "path reasoner", "probe")
    lengths = np.diff(train.offsets)
    able = np.flatnonzero(lengths >= 4)
    if not len(able):
        able = np.flatnonzero(lengths >= 2)
    chosen = np.sort(rng.permutation(able)[:users])
    hidden = np.zeros(train.user_count, np.int64)
    share = np.round(horizon * lengths[chosen]).astype(np.int64)
    hidden[chosen] = np.clip(share, 1, np.maximum(lengths[chosen] - 2, 1))
    rank = np.repeat(train.offsets[1:], lengths) - np.arange(train.event_count) - 1  # 0: newest
    if not train.ordered:
        rank = _shuffled_ranks(train, rng)
    mask = rank < np.repeat(hidden, lengths)
    rest = train.keep(~mask)
    queries = queries_of(rest, chosen)
    return Probe(rest, _holdout(train, mask, chosen, queries))


def _shuffled_ranks(train: Snapshot, rng: np.random.Generator) -> NDArray[np.int64]:
    user = train.user
    order = np.lexsort((rng.random(train.event_count), user))
    ranks = np.empty(train.event_count, np.int64)
    ranks[order] = np.arange(train.event_count) - np.repeat(train.offsets[:-1], np.diff(train.offsets))
    return ranks


def _holdout(
    train: Snapshot, mask: NDArray[np.bool_], chosen: NDArray[np.int64], queries: Queries
) -> Holdout:
    targets, counts = [], []
    for row, user in enumerate(chosen):
        events = slice(int(train.offsets[user]), int(train.offsets[user + 1]))
        wanted = np.unique(np.asarray(train.item[events])[mask[events]])
        wanted = wanted[~np.isin(wanted, queries.history(row))]
        targets.append(wanted[:_MOST_TARGETS])
        counts.append(len(targets[-1]))
    offsets = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return Holdout(
        queries, offsets, np.concatenate(targets).astype(np.int32) if targets else np.zeros(0, np.int32)
    )


def with_targets(holdout: Holdout, most: int) -> Holdout:
    """At most `most` queries, those that have targets."""
    rows = np.flatnonzero(np.diff(holdout.offsets) > 0)[:most]
    return holdout.select(rows)


@dataclass(frozen=True)
class Candidates:
    """C items that compete in the loss, ascending, and their place [I] (-1: not among them).

    log_weight: [C], the log of how many items each stands for: 0 where all or the most popular are there,
    more for a random sample of the others.
    """

    items: NDArray[np.int64]
    place: NDArray[np.int64]
    log_weight: NDArray[np.float32]

    @classmethod
    def of(cls, items: NDArray[np.int64], count: int) -> Candidates:
        """Each stands for itself."""
        place = np.full(count, -1, np.int64)
        place[items] = np.arange(len(items))
        return cls(items, place, np.zeros(len(items), np.float32))


def candidates_for(holdout: Holdout, counts: NDArray[np.int64], seed: int) -> Candidates:
    """All items up to 4,000; beyond that the targets, the most popular ones, and a sample of the others."""
    items = len(counts)
    if items <= _MOST_CANDIDATES:
        return Candidates.of(np.arange(items), items)
    rng = generator(seed, "path reasoner", "candidates")
    half = _MOST_CANDIDATES // 2
    sure = np.unique(
        np.concatenate([holdout.target.astype(np.int64), np.argsort(-counts, kind="stable")[:half]])
    )
    others = np.setdiff1d(np.arange(items), sure)
    sample = rng.permutation(others)[:half]
    chosen = np.sort(np.concatenate([sure, sample]))
    candidates = Candidates.of(chosen, items)
    stands_for = np.where(np.isin(chosen, sample), np.log(max(1.0, len(others) / max(1, len(sample)))), 0.0)
    return Candidates(candidates.items, candidates.place, stands_for.astype(np.float32))


def query_budget(features: int, candidates: int, wanted: int) -> int:
    """How many queries the loss can look at in bounded memory."""
    return int(min(wanted, max(_FEWEST_QUERIES, _MOST_CELLS // max(1, features * candidates))))


def fit_weights(
    features: NDArray[np.float32], holdout: Holdout, candidates: Candidates
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """(weights [F] >= 0, loss, share of the targets' scores that each feature carries [F]).

    features: [F, Q, C]. Loss: minus the mean log softmax probability of a target among the candidates that
    the person has not touched. Cost: F x Q x C multiplications for each of some dozens of steps.
    """
    size = np.array([np.maximum(f.max(axis=1), 0).mean() for f in features], np.float64)
    alive = size > 0
    weights, shares = np.zeros(len(features)), np.zeros(len(features))
    rows, columns, per_target = _targets(holdout, candidates)
    if not alive.any() or not len(rows):
        return weights, float("nan"), shares
    closed = _seen(holdout.queries, candidates, features.shape[1:])
    scaled = features[alive] / size[alive, None, None].astype(np.float32)

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = np.tensordot(w.astype(np.float32), scaled, axes=1) + candidates.log_weight
        logits[closed] = -np.inf
        top = logits.max(axis=1, keepdims=True)
        odds = np.exp(logits - top)
        total = odds.sum(axis=1, keepdims=True)
        value = -float((per_target * (logits - top - np.log(total))[rows, columns]).sum())
        mass = np.bincount(rows, per_target, minlength=len(logits)).astype(np.float32)
        odds *= mass[:, None] / total
        odds[rows, columns] -= per_target.astype(np.float32)
        slope = np.array([np.vdot(f, odds) for f in scaled], np.float64)
        return value + _SHRINK * float(w.sum()), slope + _SHRINK

    found = scipy.optimize.minimize(
        loss,
        np.full(int(alive.sum()), 1.0),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * int(alive.sum()),
        options={"maxiter": 60},
    )
    weights[alive] = found.x / size[alive]
    parts = (
        np.array([(features[f][rows, columns] * per_target).sum() for f in range(len(features))]) * weights
    )
    shares = parts / max(float(parts.sum()), 1e-12)
    return weights, float(found.fun), shares


def _targets(
    holdout: Holdout, candidates: Candidates
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(query, candidate column, weight) of each target; weights add up to 1, each query counts the same."""
    counts = np.diff(holdout.offsets)
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = candidates.place[holdout.target]
    good = columns >= 0
    rows, columns = rows[good], columns[good]
    own = np.bincount(rows, minlength=len(counts))
    weight = 1.0 / own[rows]
    return rows, columns, weight / max(weight.sum(), 1e-12)


def _seen(queries: Queries, candidates: Candidates, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    closed = np.zeros(shape, bool)
    rows, columns = queries.rows(), np.full(len(queries.item), -1, np.int64)
    known = queries.item >= 0
    columns[known] = candidates.place[queries.item[known]]
    closed[rows[columns >= 0], columns[columns >= 0]] = True
    return closed


Hidden: TypeAlias = tuple[Snapshot, Holdout, NDArray[np.int64]]
"""See `hidden_items`."""


def ndcg_among(scores: NDArray[np.float32], holdout: Holdout, candidates: Candidates) -> float:
    """NDCG@10 where only the candidates compete, none of which anybody has touched. scores: [Q, C]."""
    queries = holdout.queries
    bare = Queries(queries.user, np.zeros(len(queries) + 1, np.int64), np.zeros(0, np.int32))
    among = Holdout(bare, holdout.offsets, candidates.place[holdout.target].astype(np.int32))
    rows = iter(range(0, len(scores), BATCH))
    return validation_ndcg(lambda part: scores[(first := next(rows)) : first + len(part)], among)


def asked_for_new(train: Snapshot, holdout: Holdout | None) -> Hidden | None:
    """A holdout of which at least half the targets are items without events: those alone, else None."""
    if holdout is None or not len(holdout.target):
        return None
    new = train.item_counts[holdout.target] == 0
    if new.mean() < 0.5:
        return None
    offsets = np.concatenate([[0], np.cumsum(new)])[holdout.offsets]
    target = holdout.target[new]
    return train, Holdout(holdout.queries, offsets, target), np.unique(target).astype(np.int64)


def hidden_items(train: Snapshot, most_queries: int, seed: int, *, fold: int = 0) -> Hidden:
    """(the data without a fifth of the items that have events, who took them, those items).

    The histories of the queries keep their order and lack the hidden items; at most 1,500 items compete.
    fold: 0 to 4, another fifth each; none is left where there are fewer items than folds.
    """
    rng = generator(seed, "path reasoner", "hidden items")
    counts = train.item_counts
    alive = np.flatnonzero(counts > 0)
    size = max(1, min(len(alive) // 5, _MOST_HIDDEN))
    hidden = np.sort(rng.permutation(alive)[fold * size : (fold + 1) * size])
    is_hidden = np.zeros(train.item_count, bool)
    is_hidden[hidden] = True
    mask = is_hidden[train.item]
    rest = train.keep(~mask)
    lost = np.bincount(train.user[mask], minlength=train.user_count)
    able = np.flatnonzero((lost > 0) & (np.diff(rest.offsets) >= 2))
    chosen = np.sort(rng.permutation(able)[:most_queries])
    queries = queries_of(rest, chosen)
    return rest, _holdout(train, mask, chosen, queries), hidden


_SMALLEST_FACTOR = 0.05
_FACTORS = (0.0, 0.1, 0.25, 0.5, 2.0, 4.0)
WORTH_IT = 1.002  # another choice is taken when NDCG grows by more than this
_SPARED_FOR = 1.01  # what fewer and stronger paths may cost, beside the best


def balanced(
    groups: NDArray[np.float32],
    sparing: NDArray[np.bool_],
    earning: NDArray[np.bool_],
    holdout: Holdout,
    progress: Progress = silent,
) -> tuple[NDArray[np.float64], list[float]]:
    """(factors [G], NDCG@10 before and after) by coordinate search from all ones.

    The loss counts every item alike; people look at ten. groups: [G, Q, I], weighted sums of features, for
    all items. sparing: [G], groups that become as small as they can for a hundredth of NDCG, but never
    vanish: facts, which lead along many faint paths, and which can be told as reasons. earning: [G], groups
    that are left out unless they are worth it: ties between people. Two rounds; O(G x 12) rankings.
    """
    factors = np.ones(len(groups))
    quality = _ndcg(groups, factors, holdout)
    start, tried, steps = quality, 0, 2 * len(groups) * len(_FACTORS)
    for _ in range(2):
        for group in range(len(groups)):
            base = factors[group]
            for factor in _FACTORS[1:] if sparing[group] else _FACTORS:
                progress(tried, steps, "balancing paths")
                tried += 1
                other = factors.copy()
                other[group] = base * factor
                if sparing[group] and other[group] < _SMALLEST_FACTOR:
                    continue
                if other.any() and (found := _ndcg(groups, other, holdout)) > quality * WORTH_IT:
                    factors, quality = other, found
    for group in np.flatnonzero(earning).tolist():
        other = factors.copy()
        other[group] = 0.0
        if other.any() and (found := _ndcg(groups, other, holdout)) * WORTH_IT >= quality:
            factors, quality = other, found
    best = quality
    for group in np.flatnonzero(sparing).tolist():
        for factor in _FACTORS[1:4]:
            other = factors.copy()
            other[group] *= factor
            if (
                other[group] >= _SMALLEST_FACTOR
                and (found := _ndcg(groups, other, holdout)) * _SPARED_FOR >= best
            ):
                factors, quality = other, found
                break
    return factors, [round(start, 4), round(quality, 4)]


def _ndcg(groups: NDArray[np.float32], factors: NDArray[np.float64], holdout: Holdout) -> float:
    scores = np.tensordot(factors.astype(np.float32), groups, axes=1)
    scores[scores <= 0] = np.nan
    rows = iter(range(0, len(scores), BATCH))
    return validation_ndcg(lambda part: scores[(first := next(rows)) : first + len(part)], holdout)

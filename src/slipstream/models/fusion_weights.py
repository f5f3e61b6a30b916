"""How much each member of a fusion counts: standardised scores, and the weights that suit validation best.

Knows members only as things that score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.queries import Holdout, Queries, excluded_mask
from slipstream.inference.retriever import top_k
from slipstream.models.fusion_gates import FACTORS, WORTH_IT, Gate, history_steps
from slipstream.models.recommender import Recommender, ScoreMatrix
from slipstream.models.validation import target_mask

STEPS = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.2, 3.3)
"""Weights that are tried."""
ROUNDS = 4
BATCH_CELLS = 4_000_000


def standardised(scores: ScoreMatrix, queries: Queries) -> ScoreMatrix:
    """z-scores per row over the finite scores of items not in the history; the others on the same scale.

    A row whose finite scores are all equal becomes 0: it prefers nothing. What is not finite becomes NaN.
    """
    finite = np.isfinite(scores)
    counted = finite & ~excluded_mask(queries, scores.shape[1], repeat=False)
    number = np.maximum(counted.sum(axis=1, keepdims=True), 1)
    mean = np.where(counted, scores, 0.0).sum(axis=1, keepdims=True, dtype=np.float64) / number
    centred = np.where(finite, scores, 0.0) - mean
    spread = np.sqrt(np.square(np.where(counted, centred, 0.0)).sum(axis=1, keepdims=True) / number)
    flat = spread <= 1e-7 * np.abs(mean)  # below what float32 can tell apart, 0 included
    scaled = np.where(flat, 0.0, centred / np.where(flat, 1.0, spread))
    return np.where(finite, scaled, np.nan).astype(np.float32)


@dataclass(frozen=True)
class _Batch:
    scores: NDArray[np.float32]  # [members, Q, C]; 0 where a member says nothing
    candidate: NDArray[np.bool_]  # [Q, C]; the rest is padding
    wanted: NDArray[np.bool_]  # [Q, C]
    targets: NDArray[np.int64]  # [Q], all of them, also those that are no candidates
    history_step: NDArray[np.int8]  # [Q]
    item_step: NDArray[np.int8]  # [Q, C]


@dataclass(frozen=True)
class Bench:
    """Standardised scores of the candidates of some validation queries: what weights are tried on.

    A candidate is an item that some member ranks among its best; no other can reach the top of the sum.
    """

    batches: tuple[_Batch, ...]
    members: int

    @classmethod
    def of(
        cls,
        members: Sequence[Recommender],
        holdout: Holdout,
        candidates: int,
        item_step: NDArray[np.int8] | None = None,
    ) -> Bench:
        """Scores the holdout once by each member and keeps [members, Q, members * candidates] at most.

        item_step: [I], for gates.
        """
        batches = []
        items = members[0].score(holdout.queries.part(0, 1)).shape[1]
        size = max(1, min(512, BATCH_CELLS // (items * len(members))))
        for start, part in holdout.queries.batches(size):
            scores = np.stack(
                [standardised(member.score(part), part) for member in members]
            )  # [members, B, I]
            wanted = target_mask(holdout, start, start + len(part), items)
            blocked = excluded_mask(part, items, repeat=holdout.repeat)
            steps = np.zeros(items, np.int8) if item_step is None else item_step
            histories = history_steps(np.diff(part.offsets))
            batches.append(_narrow(scores, wanted, blocked, candidates, histories, steps))
        return cls(tuple(batches), len(members))

    def ndcg(self, weights: NDArray[np.float64], k: int = 10, gate: Gate | None = None) -> float:
        """NDCG@k of the weighted sum."""
        discount = 1.0 / np.log2(np.arange(2, k + 2))
        ideal = np.concatenate([[1.0], np.cumsum(discount)])
        total, counted = 0.0, 0
        for batch in self.batches:
            mixed = _mixed(batch, weights, gate)
            found, _ = top_k(mixed, k, excluded=~batch.candidate)
            hits = (found >= 0) & np.take_along_axis(batch.wanted, np.maximum(found, 0), axis=1)
            has = batch.targets > 0
            gain = (hits * discount[: hits.shape[1]]).sum(axis=1) / ideal[np.minimum(batch.targets, k)]
            total, counted = total + float(gain[has].sum()), counted + int(has.sum())
        return total / counted if counted else 0.0


def _mixed(batch: _Batch, weights: NDArray[np.float64], gate: Gate | None) -> NDArray[np.float32]:
    if gate is None:
        return np.asarray(np.tensordot(weights.astype(np.float32), batch.scores, axes=1))
    total = np.zeros(batch.scores.shape[1:], np.float32)
    for member, weight in enumerate(weights):
        factors = gate.of(member, batch.history_step, batch.item_step)
        total += np.float32(weight) * factors * batch.scores[member]
    return total


def _narrow(
    scores: NDArray[np.float32],
    wanted: NDArray[np.bool_],
    blocked: NDArray[np.bool_],
    candidates: int,
    history_step: NDArray[np.int8],
    item_step: NDArray[np.int8],
) -> _Batch:
    """Keep each member's best `candidates` per query, in the order of the items (for ties)."""
    chosen = np.zeros_like(blocked)
    for own in scores:
        best, _ = top_k(own, candidates, excluded=blocked)
        rows, columns = np.nonzero(best >= 0)
        chosen[rows, best[rows, columns]] = True
    width = max(int(chosen.sum(axis=1).max()), 1)
    order = np.argsort(~chosen, axis=1, kind="stable")[:, :width]  # [Q, C]
    narrowed = np.stack([np.take_along_axis(own, order, axis=1) for own in scores])
    return _Batch(
        np.nan_to_num(narrowed, nan=0.0),
        np.take_along_axis(chosen, order, axis=1),
        np.take_along_axis(wanted, order, axis=1),
        wanted.sum(axis=1),
        history_step,
        item_step[order],
    )


def coordinate_search(bench: Bench) -> tuple[NDArray[np.float64], float]:
    """(weights, their NDCG@10): the mean of two searches, from equal weights and from the best single member.

    One weight at a time, while it helps. Each search ends at an optimum of its own; between them is what
    suits people who were not asked better than either (LOG.md). Never below the best single member.
    """
    singles = np.eye(bench.members)
    values = [bench.ndcg(row) for row in singles]
    first = singles[int(np.argmax(values))]
    found = [_climb(bench, start) for start in (np.ones(bench.members), first)]
    weights = sum(w / w.sum() for w in found)
    weights = np.asarray(weights / weights.max())
    best = bench.ndcg(weights)
    return (weights, best) if best >= max(values) else (first, max(values))


def _climb(bench: Bench, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    best = bench.ndcg(weights)
    for _ in range(ROUNDS):
        before = best
        for member in range(bench.members):
            for step in STEPS:
                tried = weights.copy()
                tried[member] = step
                if step == weights[member] or not tried.any():
                    continue
                value = bench.ndcg(tried)
                if value > best:
                    weights, best = tried, value
        if best == before:
            break
    return weights


def gate_search(bench: Bench, weights: NDArray[np.float64], best: float) -> tuple[Gate, float]:
    """(gate, its NDCG@10): one step of one member at a time where it helps enough, two rounds.

    best: NDCG@10 of the weights alone. A step that no history or item is on changes nothing and stays 1.
    """
    gate = Gate.open(bench.members)
    moves = [("history", m, s) for m in range(bench.members) for s in range(gate.history.shape[1])]
    moves += [("item", m, s) for m in range(bench.members) for s in range(gate.item.shape[1])]
    for _ in range(2):
        before = best
        for part, member, step in moves:
            if weights[member] == 0:
                continue
            base = gate
            for factor in FACTORS:
                tried = base.moved(part, member, step, factor)
                value = bench.ndcg(weights, gate=tried)
                if value > best * WORTH_IT:
                    gate, best = tried, value
        if best == before:
            break
    return gate, best

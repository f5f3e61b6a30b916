"""How well vectors tell true edges from others: filtered ranks in both directions, and what they add up to.

Of a held-out edge (h, r, t) the tail is ranked among all entities as an answer to (h, r, ?), and the head as
an answer to (?, r, t). Other answers known to be true are left out of the ranking (Bordes et al. 2013,
"filtered"). A tie counts half: the rank is the mean of the best and the worst place it allows (Berrendorf et
al. 2020, "realistic"), so a model that gives every entity one score gets the rank of chance, not the first.
Entities that no training edge knows are ranked like all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.inference.triple_embedding import TripleEmbedding

CUTS = (1, 3, 10)
_BLOCK_BYTES = 64 << 20  # scores of one block of questions


@dataclass(frozen=True)
class LinkRanks:
    """tail, head: [N] float64, the rank (1 is best, halves at ties) of each edge's tail and head."""

    tail: NDArray[np.float64]
    head: NDArray[np.float64]

    @property
    def both(self) -> NDArray[np.float64]:
        return np.concatenate([self.tail, self.head])

    def summary(self) -> dict[str, float]:
        """MRR, Hits@1, 3, 10 and the mean rank over both directions, and the MRR of each."""
        ranks = self.both
        if not len(ranks):
            return {}
        result = {"MRR": float((1 / ranks).mean())}
        result |= {f"Hits@{cut}": float((ranks <= cut).mean()) for cut in CUTS}
        result["mean rank"] = float(ranks.mean())
        result["MRR of tails"] = float((1 / self.tail).mean())
        result["MRR of heads"] = float((1 / self.head).mean())
        return result


def filtered_ranks(
    embedding: TripleEmbedding, test: NDArray[np.integer], known: NDArray[np.integer]
) -> LinkRanks:
    """The ranks of the edges `test` [N, 3] (head, relation, tail).

    known: [T, 3], every edge that is known to be true: training, validation and test; those of `test` are
    added. Cost O(N · E · D); memory 64 MiB of scores at a time.
    """
    relations = embedding.relation_count
    test = np.asarray(test, np.int64).reshape(-1, 3)
    every = np.unique(np.concatenate([np.asarray(known, np.int64).reshape(-1, 3), test]), axis=0)
    tails = _ranks(embedding, test, every)
    turned = _ranks(embedding, _turned(test, relations), _turned(every, relations))
    return LinkRanks(tails, turned)


def _turned(triples: NDArray[np.int64], relations: int) -> NDArray[np.int64]:
    return np.stack([triples[:, 2], triples[:, 1] + relations, triples[:, 0]], axis=1)


def _ranks(
    embedding: TripleEmbedding, questions: NDArray[np.int64], known: NDArray[np.int64]
) -> NDArray[np.float64]:
    answers = Answers(known, len(embedding.relation))
    ranks = np.empty(len(questions))
    size = max(1, _BLOCK_BYTES // (4 * len(embedding.entity)))
    for start in range(0, len(questions), size):
        head, relation, tail = questions[start : start + size].T
        scores = embedding.scores(head, relation)
        rows = np.arange(len(head))
        own = scores[rows, tail].copy()
        scores[answers.of(head, relation)] = -np.inf
        better = (scores > own[:, None]).sum(1)
        level = (scores == own[:, None]).sum(1)  # its own score is among the known ones, so others only
        ranks[start : start + size] = 1 + better + level / 2
    return ranks


class Answers:
    """The known tails of every (head, relation)."""

    def __init__(self, triples: NDArray[np.int64], relations: int) -> None:
        self._relations = relations
        key = triples[:, 0] * relations + triples[:, 1]
        order = np.argsort(key, kind="stable")
        self._key, self._tail = key[order], triples[order, 2]

    def of(
        self, head: NDArray[np.int64], relation: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row of the question, known tail): an index into scores [B, E]."""
        key = head * self._relations + relation
        first = np.searchsorted(self._key, key)
        count = np.searchsorted(self._key, key, side="right") - first
        row = np.repeat(np.arange(len(key)), count)
        place = np.arange(len(row)) + np.repeat(first - (np.cumsum(count) - count), count)
        return row, self._tail[place]

"""Edges that are likely missing from a graph, by vectors learned from the edges it has.

A suggestion answers (h, r, ?) or (?, r, t). Its confidence is the softmax over all entities that the relation
is known to reach, edges of the graph among them: a film whose director is known has little left for a second
one, a film without a director has all. Who may be asked: every entity of a type that has the relation. The
confidence is the model's own and no probability of being true; how often such guesses are right is measured
on edges held back (loop/suggesting.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.config import Progress, silent
from slipstream.errors import UnknownName
from slipstream.graph.knowledge_graph import KnowledgeGraph
from slipstream.graph.link_prediction import Answers
from slipstream.inference.triple_embedding import TripleEmbedding

PER_QUESTION = 3  # so that one open question does not fill the list
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class _Best:
    """The most confident edges so far, in numbers."""

    confidence: NDArray[np.float32]
    edges: NDArray[np.int64]  # [N, 3]

    def with_more(self, confidence: NDArray[np.float32], edges: NDArray[np.int64], limit: int) -> _Best:
        every = np.concatenate([self.confidence, confidence])
        rows = np.concatenate([self.edges, edges])
        order = np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0], -every))[:limit]
        return _Best(every[order], rows[order])


def triples_of(graph: KnowledgeGraph) -> NDArray[np.int32]:
    """[M, 3] (head, relation, tail) of every edge, in its order."""
    return np.stack([graph.head, np.asarray(graph.relation, np.int32), np.asarray(graph.tail)], axis=1)


def suggest_edges(
    graph: KnowledgeGraph,
    embedding: TripleEmbedding,
    *,
    relation: str | None = None,
    limit: int = 20,
    progress: Progress = silent,
) -> pl.DataFrame:
    """The `limit` most confident edges that the graph does not have, of one relation or of all.

    head, relation, tail (names), head_label, tail_label, confidence; in descending confidence, ties by
    number. An edge that is suggested from both ends counts once, with the higher confidence. Cost per
    relation: entities of its types x entities it reaches x D; memory 64 MiB of scores at a time.
    """
    names = graph.relations.to_list()
    if relation is not None and relation not in names:
        raise UnknownName("relation", relation, names)
    wanted = range(len(names)) if relation is None else [names.index(relation)]
    triples = triples_of(graph).astype(np.int64)
    turned = np.stack([triples[:, 2], triples[:, 1] + len(names), triples[:, 0]], axis=1)
    answers = Answers(np.concatenate([triples, turned]), 2 * len(names))
    best = _Best(np.zeros(0, np.float32), np.zeros((0, 3), np.int64))
    for done, number in enumerate(wanted):
        progress(done, len(wanted), names[number])
        edges = triples[triples[:, 1] == number]
        for heads, asked, candidates in ((0, number, 2), (2, number + len(names), 0)):
            found = _guesses(graph, embedding, answers, edges[:, heads], asked, edges[:, candidates])
            for confidence, pairs in found:
                h, t = (0, 1) if heads == 0 else (1, 0)
                rows = np.stack([pairs[:, h], np.full(len(pairs), number), pairs[:, t]], axis=1)
                best = best.with_more(confidence, rows, 2 * limit)
    return _named(graph, best, limit)


def _guesses(
    graph: KnowledgeGraph,
    embedding: TripleEmbedding,
    answers: Answers,
    heads: NDArray[np.int64],
    relation: int,
    tails: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """(confidence [N], (asked, answer) [N, 2]) of the best new answers of each entity of the heads' types."""
    types = np.unique(np.asarray(graph.entity_type)[heads])
    asked = np.flatnonzero(np.isin(graph.entity_type, types))
    reached = np.unique(tails)
    place = np.full(graph.entity_count, -1, np.int64)
    place[reached] = np.arange(len(reached))
    among = TripleEmbedding(embedding.form, embedding.entity[reached], embedding.relation)
    size = max(1, _BLOCK_BYTES // (4 * len(reached)))
    for start in range(0, len(asked), size):
        block = asked[start : start + size]
        scores = among.compare(embedding.queries(block, np.full(len(block), relation)))
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        row, known = answers.of(block, np.full(len(block), relation))
        scores[row, place[known]] = -1
        own = place[block]
        scores[own >= 0, own[own >= 0]] = -1  # nothing is related to itself
        width = min(PER_QUESTION, len(reached))
        top = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        confidence = np.take_along_axis(scores, top, axis=1).ravel()
        pairs = np.stack([np.repeat(block, width), reached[top.ravel()]], axis=1)
        yield confidence[confidence >= 0], pairs[confidence >= 0]


def _named(graph: KnowledgeGraph, best: _Best, limit: int) -> pl.DataFrame:
    _, first = np.unique(best.edges, axis=0, return_index=True)
    keep = np.sort(first)[:limit]  # an edge found from both ends: the more confident comes first
    rows = [
        (graph.name(h), graph.relations[r], graph.name(t), graph.label(h), graph.label(t), float(sure))
        for (h, r, t), sure in zip(best.edges[keep].tolist(), best.confidence[keep], strict=True)
    ]
    names = ("head", "relation", "tail", "head_label", "tail_label")
    return pl.DataFrame(
        rows, schema={**dict.fromkeys(names, pl.String), "confidence": pl.Float64}, orient="row"
    )

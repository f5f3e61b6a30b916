"""Missing edges of a world with a rule are suggested; known ones never are."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from slipstream.errors import UnknownName
from slipstream.graph.construction import build, triple_facts
from slipstream.graph.knowledge_graph import KnowledgeGraph
from slipstream.graph.suggestions import suggest_edges, triples_of
from slipstream.inference.triple_embedding import TripleEmbedding


def films() -> KnowledgeGraph:
    """Film n is by director n mod 3, who works for studio n mod 3; film 11 lacks its director."""
    rows = [(f"film {n:02}", "by", f"director {n % 3}") for n in range(11)]
    rows += [(f"film {n:02}", "made_at", f"studio {n % 3}") for n in range(12)]
    frame = pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row")
    types = [pl.col("head").str.split(" ").list[0].alias("head_type")]
    return build(
        [triple_facts(frame.with_columns(*types, tail_type=pl.col("tail").str.split(" ").list[0]))]
    ).graph


def group_vectors(graph: KnowledgeGraph) -> TripleEmbedding:
    """Vectors by hand: everything of a group looks in one direction, and relations change nothing."""
    entity = np.zeros((graph.entity_count, 3), np.float32)
    for number, name in enumerate(graph.entities.to_list()):
        entity[number, int(name.split()[1]) % 3] = 3
    return TripleEmbedding("distmult", entity, np.ones((2 * len(graph.relations), 3), np.float32))


def test_the_missing_director_is_suggested() -> None:
    graph = films()
    found = suggest_edges(graph, group_vectors(graph), relation="by", limit=1)
    assert found.select("head", "relation", "tail").row(0) == ("film 11", "by", "director 2")
    assert found["confidence"][0] > 0.9


def test_no_known_edge_and_no_pair_twice() -> None:
    graph = films()
    found = suggest_edges(graph, group_vectors(graph), limit=1_000)
    pairs = list(found.select("head", "relation", "tail").iter_rows())
    assert len(pairs) == len(set(pairs))
    assert not set(pairs) & set(graph.triples().iter_rows())
    assert found["confidence"].is_sorted(descending=True)
    # only what the relation reaches answers, only what has the relation asks
    for head, relation, tail in pairs:
        assert head.startswith("film")
        assert tail.startswith({"by": "director", "made_at": "studio"}[relation])


def test_triples_are_the_edges() -> None:
    graph = films()
    rows = [(graph.name(h), graph.relations[r], graph.name(t)) for h, r, t in triples_of(graph).tolist()]
    assert rows == list(graph.triples().iter_rows())


def test_an_unknown_relation_is_refused_with_the_known_ones() -> None:
    graph = films()
    with pytest.raises(UnknownName) as caught:
        suggest_edges(graph, group_vectors(graph), relation="bye")
    assert "by" in caught.value.hint

"""The typed CSR graph: its order, its folder, and NetworkX."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import networkx
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import BadInput, CorruptArtifact, NotThere
from slipstream.graph.construction import build, triple_facts
from slipstream.graph.knowledge_graph import KnowledgeGraph, inverse_name

Triple = tuple[str, str, str]
triple_sets = st.sets(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["r", "s", "t"]), st.sampled_from("abcdef")),
    max_size=30,
)


def frame_of(rows: Iterable[Triple]) -> pl.DataFrame:
    schema = {"head": pl.String, "relation": pl.String, "tail": pl.String}
    return pl.DataFrame(sorted(rows), schema=schema, orient="row")


def graph_of(rows: Iterable[Triple]) -> KnowledgeGraph:
    return build([triple_facts(frame_of(rows))]).graph


@settings(max_examples=60, deadline=None)
@given(triple_sets)
def test_edges_are_sorted_both_ways_and_none_is_lost(rows: set[Triple]) -> None:
    graph = build([triple_facts(frame_of(rows))], infer_inverses=False).graph
    assert set(graph.triples().iter_rows()) == {r for r in rows if r[0] != r[2]}
    keys = list(zip(graph.head.tolist(), graph.relation.tolist(), graph.tail.tolist(), strict=True))
    assert keys == sorted(keys)
    back = [(graph.tail[e], graph.relation[e], graph.head[e]) for e in graph.by_tail]
    assert back == sorted(back)
    for entity in range(graph.entity_count):
        assert set(graph.edges_to(entity).tolist()) == set(np.flatnonzero(graph.tail == entity).tolist())
        assert set(graph.edges_from(entity).tolist()) == set(np.flatnonzero(graph.head == entity).tolist())


def test_a_written_graph_opens_equal_and_read_only(tmp_path: Path) -> None:
    graph = graph_of([("a", "r", "b"), ("a", "s", "b"), ("c", "r", "a")])
    graph.write(tmp_path / "graph")
    opened = KnowledgeGraph.open(tmp_path / "graph")
    assert opened.triples().equals(graph.triples())
    assert opened.provenance(0) == graph.provenance(0)
    with pytest.raises(ValueError, match="read-only"):
        opened.tail[0] = 1


def test_a_changed_byte_is_refused_by_name(tmp_path: Path) -> None:
    graph_of([("a", "r", "b")]).write(tmp_path / "graph")
    file = tmp_path / "graph" / "tail.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(CorruptArtifact, match=r"tail\.npy"):
        KnowledgeGraph.open(tmp_path / "graph")


def test_opening_nothing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotThere):
        KnowledgeGraph.open(tmp_path / "graph")


def test_the_inverse_of_a_relation_has_a_name() -> None:
    assert inverse_name("directed_by") == "is_directed_by_of"


def test_networkx_there_and_back_keeps_edges_types_and_labels() -> None:
    graph = graph_of([("a", "r", "b"), ("a", "s", "b"), ("c", "r", "a")])
    outside = graph.to_networkx()
    assert isinstance(outside, networkx.MultiDiGraph)
    assert outside["a"]["b"]["s"]["row"] == graph.provenance(1)[1]
    assert KnowledgeGraph.from_networkx(outside).triples().equals(graph.triples())


def test_an_undirected_graph_becomes_symmetric() -> None:
    friends = networkx.Graph()
    friends.add_edge(1, 2, relation="friend")
    friends.add_node(3, type="person", label="Nobody's friend")
    graph = KnowledgeGraph.from_networkx(friends)
    assert set(graph.triples().iter_rows()) == {("1", "friend", "2"), ("2", "friend", "1")}
    assert graph.symmetric.tolist() == [True]
    alone = graph.entities.number("3")
    assert (graph.type_of(alone), graph.label(alone)) == ("person", "Nobody's friend")


def test_keys_name_relations_and_others_are_related() -> None:
    outside = networkx.MultiDiGraph()
    outside.add_edge("a", "b", key="wrote")
    outside.add_edge("a", "c")
    assert set(KnowledgeGraph.from_networkx(outside).triples().iter_rows()) == {
        ("a", "wrote", "b"),
        ("a", "related_to", "c"),
    }


def test_nodes_that_read_the_same_are_refused() -> None:
    outside = networkx.DiGraph()
    outside.add_edge(1, "1")
    with pytest.raises(BadInput, match="same name"):
        KnowledgeGraph.from_networkx(outside)

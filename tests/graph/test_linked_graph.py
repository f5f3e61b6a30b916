"""A graph joined with items and users: a linked item is its entity, and names never collide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from slipstream.artifacts import open_artifact, writing
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.graph.construction import build, catalogue_facts, triple_facts, user_facts
from slipstream.graph.linked_graph import LinkedGraph, join

TRIPLES = pl.DataFrame(
    [
        ("dbr:Alien", "director", "dbr:Scott"),
        ("dbr:Blade_Runner", "director", "dbr:Scott"),
        ("dbr:Aliens", "sequel_of", "dbr:Alien"),
        ("dbr:Scott", "born_in", "2"),
    ],
    schema=["head", "relation", "tail"],
    orient="row",
)
ITEMS = Vocabulary.of(["1", "2", "3", "4"])


def linked(links: list[tuple[str, str]], users: pl.DataFrame | None = None) -> LinkedGraph:
    facts = [triple_facts(TRIPLES)] + ([] if users is None else [user_facts(users)])
    frame = pl.DataFrame(links, schema={"item_id": pl.String, "entity_id": pl.String}, orient="row")
    ids = None if users is None else Vocabulary.of(users["user_id"].to_list())
    return join(build(facts).graph, frame, ITEMS, ids)


def test_a_linked_item_takes_the_place_of_its_entity() -> None:
    graph = linked([("1", "dbr:Alien"), ("3", "dbr:Blade_Runner"), ("4", "dbr:Aliens")])
    edges = set(graph.export().iter_rows())
    assert ("1", "director", "dbr:Scott") in edges
    assert ("dbr:Scott", "is_director_of", "3") in edges
    assert ("4", "sequel_of", "1") in edges
    assert not any("dbr:Alien" in row for row in edges)
    assert graph.item_entity.tolist()[1] == -1


def test_an_entity_with_the_name_of_an_item_is_marked() -> None:
    edges = set(linked([("1", "dbr:Alien")]).export().iter_rows())
    assert ("dbr:Scott", "born_in", "entity:2") in edges
    assert ("entity:2", "is_born_in_of", "dbr:Scott") in edges


def test_two_items_of_one_entity_both_get_its_edges() -> None:
    edges = set(linked([("1", "dbr:Alien"), ("2", "dbr:Alien"), ("4", "dbr:Aliens")]).export().iter_rows())
    assert {("1", "director", "dbr:Scott"), ("2", "director", "dbr:Scott")} <= edges
    assert {("4", "sequel_of", "1"), ("4", "sequel_of", "2")} <= edges


def test_links_to_unknown_items_and_entities_are_ignored() -> None:
    graph = linked([("9", "dbr:Alien"), ("1", "dbr:Nothing"), ("2", "dbr:Aliens")])
    assert (graph.item_entity >= 0).tolist() == [False, True, False, False]


def test_users_are_nodes_of_their_own_even_with_the_id_of_an_item() -> None:
    users = pl.DataFrame({"user_id": ["1", "2"], "occupation": ["artist", "artist"]})
    graph = linked([("1", "dbr:Alien")], users)
    assert graph.user_count == 2
    assert set(graph.export().iter_rows()) >= {
        ("1", "occupation", "occupation:artist"),
        ("occupation:artist", "is_occupation_of", "2"),
    }
    assert graph.node_name(4) == "1"
    assert graph.node_name(0) == "1"


def test_an_own_catalogue_links_by_its_ids_and_keeps_labels() -> None:
    films = pl.DataFrame({"item_id": ["1", "2"], "title": ["Alien", "Heat"], "genre": ["Horror", "Horror"]})
    made = build([catalogue_facts(films, "item_id")]).graph
    graph = join(made, pl.DataFrame({"item_id": ["1", "2"], "entity_id": ["1", "2"]}), ITEMS)
    assert graph.node_label(0) == "Alien"
    assert ("1", "genre", "genre:Horror") in set(graph.export().iter_rows())
    assert graph.user_entity is None


def test_a_symmetric_relation_is_not_exported_twice() -> None:
    rows = [("a", "friend", "b"), ("b", "friend", "a")]
    made = build([triple_facts(pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row"))]).graph
    links = pl.DataFrame(schema={"item_id": pl.String, "entity_id": pl.String})
    assert set(join(made, links, ITEMS).export().iter_rows()) == set(rows)


def test_save_and_load_change_nothing(tmp_path: Path) -> None:
    graph = linked([("1", "dbr:Alien"), ("4", "dbr:Aliens")])
    with writing(tmp_path / "linked", "linked-graph") as writer:
        graph.write_into(writer)
    opened = LinkedGraph.read(open_artifact(tmp_path / "linked", "linked-graph"))
    assert opened.export().equals(graph.export())
    np.testing.assert_array_equal(opened.item_confidence, graph.item_confidence)


def test_node_edges_are_sorted_and_distinct() -> None:
    edges = linked([("1", "dbr:Alien"), ("2", "dbr:Alien"), ("3", "dbr:Blade_Runner")]).edges
    keys = list(zip(edges.head.tolist(), edges.relation.tolist(), edges.tail.tolist(), strict=True))
    assert keys == sorted(set(keys))

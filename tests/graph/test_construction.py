"""From tables and triples to a graph, and the report of what happened on the way."""

from __future__ import annotations

import polars as pl
import pytest

from slipstream.errors import BadInput
from slipstream.graph.columns import ColumnRule
from slipstream.graph.construction import (
    build,
    catalogue_facts,
    graph_from_catalogue,
    graph_from_triples,
    triple_facts,
    user_facts,
)

FILMS = pl.DataFrame(
    {
        "item_id": ["1", "2", "3", None, ""],
        "title": ["Alien", "Aliens", "Blade Runner", "lost", "lost"],
        "release_year": [1979, 1986, 1982, 1990, 1990],
        "director": ["Ridley Scott", "James Cameron", "Ridley Scott", "x", "x"],
        "genres": [["Horror", "Sci-Fi"], ["Sci-Fi"], ["Sci-Fi"], [], []],
    }
)


def triples(*rows: tuple[str | None, str | None, str | None]) -> pl.DataFrame:
    schema = {"head": pl.String, "relation": pl.String, "tail": pl.String}
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def test_a_catalogue_becomes_typed_entities_and_relations() -> None:
    made = graph_from_catalogue(FILMS, "item_id")
    edges = set(made.graph.triples().iter_rows())
    assert ("1", "director", "director:Ridley Scott") in edges
    assert ("1", "release_year", "release_year:1970s") in edges
    assert ("1", "genres", "genres:Horror") in edges
    assert made.report.relations == {"director": 3, "genres": 4, "release_year": 3}
    graph = made.graph
    assert graph.type_of(graph.entities.number("1")) == "item"
    assert graph.type_of(graph.entities.number("genres:Horror")) == "genres"
    assert graph.label(graph.entities.number("2")) == "Aliens"


def test_rows_without_an_id_are_rejected_with_their_row_number() -> None:
    made = graph_from_catalogue(FILMS, "item_id")
    assert made.rejected.rows() == [("catalogue", 3, "no item_id"), ("catalogue", 4, "no item_id")]
    assert made.report.rejected == {"catalogue": {"no item_id": 2}}


def test_the_report_tells_what_became_of_every_column() -> None:
    columns = graph_from_catalogue(FILMS, "item_id").report.columns["catalogue"]
    assert [c["column"] for c in columns] == ["release_year", "director", "genres"]
    assert all(c["why"] for c in columns)


def test_one_type_for_two_columns_merges_their_values() -> None:
    frame = pl.DataFrame({"id": ["a", "b"], "director": ["Ada", "Bo"], "writer": ["Bo", "Ada"]})
    rule = {"director": ColumnRule(type="person"), "writer": ColumnRule(type="person")}
    graph = graph_from_catalogue(frame, "id", columns=rule).graph
    assert ("a", "director", "person:Ada") in set(graph.triples().iter_rows())
    assert ("b", "writer", "person:Ada") in set(graph.triples().iter_rows())


def test_a_user_and_an_item_may_have_the_same_id() -> None:
    users = pl.DataFrame({"user_id": ["1", "2"], "occupation": ["artist", "artist"]})
    graph = build([catalogue_facts(FILMS, "item_id"), user_facts(users)]).graph
    assert ("user:1", "occupation", "occupation:artist") in set(graph.triples().iter_rows())
    assert {graph.type_of(graph.entities.number(n)) for n in ("1", "user:1")} == {"item", "user"}


def test_duplicates_and_self_loops_are_dropped_and_counted() -> None:
    made = graph_from_triples(triples(("a", "r", "b"), ("a", "r", "b"), ("a", "s", "b"), ("c", "r", "c")))
    assert (made.report.duplicates, made.report.self_loops, made.report.edges) == (1, 1, 2)
    assert "c" in made.graph.entities  # an entity without an edge stays known


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((None, "r", "b"), "no head"),
        (("a", "  ", "b"), "no relation"),
        (("a", "r", "b\x00"), "tail has unprintable characters"),
        (("a" * 3000, "r", "b"), "head over 2000 bytes"),
    ],
)
def test_bad_triples_are_rejected_with_a_reason(row: tuple[str | None, str, str], reason: str) -> None:
    made = graph_from_triples(triples(("a", "r", "b"), row))
    assert made.rejected.rows() == [("triples", 1, reason)]
    assert made.graph.edge_count == 1


def test_a_relation_may_be_anything_printable() -> None:
    made = graph_from_triples(triples(("a", "ist 'älter' \"als\" (x)", "b")))
    assert made.graph.relations.to_list() == ["ist 'älter' \"als\" (x)"]


def test_triples_without_named_columns_are_read_in_order() -> None:
    frame = pl.DataFrame({"x": ["a"], "y": ["r"], "z": ["b"]})
    assert graph_from_triples(frame).graph.triples().rows() == [("a", "r", "b")]
    with pytest.raises(BadInput, match="three columns"):
        triple_facts(frame.select("x", "y"))


def test_an_unknown_column_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(BadInput, match="no column 'nope'") as error:
        catalogue_facts(FILMS, "nope")
    assert "item_id" in error.value.hint


def test_inverse_relations_are_merged_into_the_alphabetically_first() -> None:
    rows = [(f"film{i}", "directed_by", f"person{i % 3}") for i in range(6)]
    back = [(t, "director_of", h) for h, _, t in rows]
    made = graph_from_triples(triples(*rows, *back))
    assert made.report.merged_inverses == {"director_of": "directed_by"}
    assert made.report.relations == {"directed_by": 6}


def test_a_few_extra_edges_of_an_inverse_are_kept_when_merged() -> None:
    rows = [(f"film{i}", "directed_by", f"person{i % 3}") for i in range(20)]
    back = [(t, "director_of", h) for h, _, t in rows] + [("person9", "director_of", "film9x")]
    made = graph_from_triples(triples(*rows, *back))
    assert made.report.merged_inverses == {"directed_by": "director_of"}  # the larger one stays
    assert made.report.relations == {"director_of": 21}


def test_different_relations_between_the_same_ends_stay_apart() -> None:
    rows = [(f"film{i}", "directed_by", f"person{i % 3}") for i in range(6)]
    also = [(f"film{i}", "written_by", f"person{i % 3}") for i in range(6)]
    made = graph_from_triples(triples(*rows, *also))
    assert made.report.merged_inverses == {}
    assert made.report.edges == 12


def test_a_symmetric_relation_is_marked_and_not_merged() -> None:
    friends = [(f"a{i}", "friend", f"b{i}") for i in range(6)]
    mirrored = [(t, r, h) for h, r, t in friends]
    knows = [(h, "knows", t) for h, _, t in [*friends, *mirrored]]
    made = graph_from_triples(triples(*friends, *mirrored, *knows, ("a0", "likes", "b0")))
    assert made.report.merged_inverses == {}
    assert dict(zip(made.graph.relations.to_list(), made.graph.symmetric.tolist(), strict=True)) == {
        "friend": True,
        "knows": True,
        "likes": False,
    }


def test_declared_inverses_are_merged_even_if_rare() -> None:
    facts = [triple_facts(triples(("a", "child", "b"), ("b", "parent", "a"), ("d", "parent", "c")))]
    made = build(facts, inverses={"parent": "child"})
    assert set(made.graph.triples().iter_rows()) == {("a", "child", "b"), ("c", "child", "d")}


def test_a_named_type_beats_the_default_one() -> None:
    first = triple_facts(triples(("1", "seen_by", "x")))
    graph = build([first, catalogue_facts(FILMS, "item_id")]).graph
    assert graph.type_of(graph.entities.number("1")) == "item"


def test_every_edge_knows_the_file_and_row_it_came_from() -> None:
    facts = [
        triple_facts(triples(("z", "r", "y"), ("a", "r", "b")), source="one.tsv"),
        triple_facts(triples(("a", "r", "b"), ("b", "r", "c")), source="two.tsv"),
    ]
    graph = build(facts).graph
    came_from = {t: graph.provenance(e) for e, t in enumerate(graph.triples().iter_rows())}
    assert came_from == {
        ("z", "r", "y"): ("one.tsv", 0),
        ("a", "r", "b"): ("one.tsv", 1),
        ("b", "r", "c"): ("two.tsv", 1),
    }


def test_nothing_gives_an_empty_graph() -> None:
    made = build([])
    assert (made.graph.entity_count, made.graph.edge_count) == (0, 0)
    assert made.graph.triples().height == 0

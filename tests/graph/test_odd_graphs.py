"""Graphs nobody wants but everybody gets: each has a defined result, and the report tells it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from slipstream.dataset.vocabulary import Vocabulary
from slipstream.graph.construction import Construction, build, triple_facts
from slipstream.graph.linked_graph import join
from slipstream.graph.linking import link


def built(*rows: tuple[str, str, str]) -> Construction:
    return build([triple_facts(pl.DataFrame(list(rows), schema=["head", "relation", "tail"], orient="row"))])


def test_a_chain_of_subclasses_that_bites_its_tail_is_kept_and_told() -> None:
    done = built(
        ("a", "subclass_of", "b"), ("b", "subclass_of", "c"), ("c", "subclass_of", "a"),
        ("d", "subclass_of", "a"),
        ("a", "part_of", "d"), ("x", "knows", "y"), ("y", "knows", "x"),
    )  # fmt: skip
    assert done.report.cycles == {"subclass_of": 3}  # a symmetric relation is no cycle
    assert done.graph.edge_count == 7


def star(size: int) -> Construction:
    rows = pl.DataFrame({"head": [f"e{n}" for n in range(size)]})
    return build([triple_facts(rows.with_columns(relation=pl.lit("in"), tail=pl.lit("the world")))])


@pytest.mark.parametrize("size", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_hub_is_kept_whole_and_told(size: int) -> None:
    done = star(size)
    assert done.report.hubs == {"the world": size}
    hub = done.graph.entities.number("the world")
    assert len(done.graph.edges_to(hub)) == size
    assert len(np.unique(done.graph.head)) == size


def test_a_small_graph_has_no_hubs() -> None:
    assert star(900).report.hubs == {}


def test_a_relation_with_one_edge_is_a_relation() -> None:
    done = built(("a", "once", "b"), ("a", "r", "c"), ("b", "r", "c"))
    assert done.report.relations == {"once": 1, "r": 2}


def test_an_entity_linked_to_two_items_gives_its_edges_to_both_and_is_told() -> None:
    items = pl.DataFrame({"item_id": ["1", "2", "3", "lost"], "title": ["One", "Two", None, "Nothing"]})
    candidates = pl.DataFrame({"id": ["x", "y"], "label": ["X", "Y"]})
    given = pl.DataFrame({"item_id": ["1", "2", "2", "9", "3"], "entity_id": ["x", "x", "y", "x", "nowhere"]})
    links = link(items, candidates, explicit=given)
    told = links.to_json()
    assert links.shared().rows() == [("x", ["1", "2"])]
    assert told["entities_shared"] == 1
    assert told["second_links"] == 1  # item 2 was linked to y as well: the first one counts
    assert told["links_of_unknown_items"] == 1
    assert told["links_to_unknown_ids"] == 1
    assert dict(links.unlinked.select("item_id", "reason").iter_rows()) == {
        "3": "no title",
        "lost": "no candidate",
    }
    graph = built(("x", "by", "someone")).graph
    linked = join(graph, links.links, Vocabulary.of(["1", "2", "3", "lost"]))
    assert set(linked.export().filter(pl.col("relation") == "by").iter_rows()) == {
        ("1", "by", "someone"), ("2", "by", "someone"),
    }  # fmt: skip
    assert linked.item_entity.tolist()[2:] == [-1, -1]

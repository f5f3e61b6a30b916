"""What the graph tells of items as columns, beside a loop over the exported edges."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from slipstream.dataset.vocabulary import Vocabulary
from slipstream.features.graph import entity_features
from slipstream.graph.construction import build, triple_facts
from slipstream.graph.linked_graph import LinkedGraph, join

ITEMS = ("i0", "i1", "i2", "i3")
names = st.sampled_from((*ITEMS, "a", "b", "u0"))


def linked(rows: list[tuple[str, str, str]]) -> LinkedGraph:
    frame = pl.DataFrame(
        rows, schema={"head": pl.String, "relation": pl.String, "tail": pl.String}, orient="row"
    )
    ids = pl.Series("item_id", ITEMS)
    graph = build([triple_facts(frame)], infer_inverses=False).graph
    return join(graph, pl.DataFrame({"item_id": ids, "entity_id": ids}), Vocabulary.of(list(ITEMS)))


@given(st.lists(st.tuples(names, st.sampled_from(["r", "s"]), names), max_size=25))
def test_columns_are_the_shared_neighbours_of_items(rows: list[tuple[str, str, str]]) -> None:
    graph = linked(rows)
    has: dict[tuple[str, str], set[str]] = defaultdict(set)
    for head, relation, tail in graph.export().iter_rows():  # both directions, with a name for each
        if head in ITEMS:
            has[relation, tail].add(head)
    columns = [members for members in has.values() if len(members) > 1]
    found = entity_features(graph)
    assert found.shape == (len(ITEMS), len(columns))
    expected = sorted(tuple(len(c) ** -0.5 if i in c else 0.0 for i in ITEMS) for c in columns)
    got = sorted(map(tuple, found.toarray().T.tolist()))
    np.testing.assert_allclose(np.array(got), np.array(expected), rtol=1e-6)


def test_a_graph_that_links_nothing_gives_no_columns() -> None:
    assert entity_features(linked([("a", "r", "b")])).shape == (4, 0)
    assert entity_features(linked([])).shape == (4, 0)

"""The Python road: frames of all kinds, NetworkX in and out, and calls that are wrong."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pandas as pd
import polars as pl
import pytest

import slipstream
from slipstream.errors import BadInput, UnknownName


def test_mixed_ids_and_a_column_called_when_are_read(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"user": [1, "a", None], "item": ["x", 2, 3], "when": pd.date_range("2024-01-01", periods=3)}
    )
    space = slipstream.open(tmp_path)
    report = space.ingest(frame)
    assert (report.stored, dict(report.rejected)) == (2, {"missing-user": 1})
    with space.store() as store:
        assert store.history("a")["item_id"].to_list() == ["2"]
        assert store.history("1")["time_us"].to_list() == [1_704_067_200_000_000]


@pytest.mark.parametrize("source", [pd.Series([1]), {"user": [1]}, [("a", "b")], None, 7], ids=repr)
def test_what_is_no_table_is_refused(source: object, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a table must be"):
        slipstream.open(tmp_path).ingest(source)
    with pytest.raises(BadInput, match="a table must be"):
        slipstream.open(tmp_path).catalogue(source)


def test_a_networkx_graph_goes_in_and_comes_out(tmp_path: Path) -> None:
    space = slipstream.open(tmp_path)
    space.ingest(pl.DataFrame({"user_id": [1, 1, 2], "item_id": ["x", "y", "x"]}))
    graph = nx.MultiDiGraph()
    graph.add_edge("x", "ann", relation="made by")
    graph.add_edge("y", "ann", relation="made by")
    assert space.add_triples(graph).triples == 2
    space.prepare()
    out = space.graph().to_networkx()
    edges = {(head, relation, tail) for head, tail, relation in out.edges(keys=True)}
    assert edges == {("x", "made by", "ann"), ("y", "made by", "ann")}


def test_ids_may_be_numbers_and_a_goal_must_exist(tmp_path: Path) -> None:
    space = slipstream.open(tmp_path)
    space.ingest(pl.DataFrame({"user_id": [1, 1, 2], "item_id": [7, 8, 7], "kind": ["view"] * 3}))
    space.prepare()
    with pytest.raises(UnknownName, match="'purchase'"):
        space.train("popularity", goal="purchase")
    space.train("popularity")
    space.release()
    assert [item.item_id for item in space.recommend(2).items] == ["8"]
    assert space.forget(2) == 1

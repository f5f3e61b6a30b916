"""Edges in numbers: the sorted forms equal the obvious ones."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.graph.merging import Edges, Names, inverse_relations, order_by

triples = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 4)), max_size=40)


def edges_of(rows: list[tuple[int, int, int]]) -> Edges:
    head, relation, tail = np.array(rows, np.int32).reshape(-1, 3).T
    return Edges(
        head,
        relation.astype(np.uint16),
        tail,
        np.zeros(len(head), np.uint16),
        np.arange(len(head), dtype=np.int32),
    )


def rows_of(edges: Edges) -> list[tuple[int, int, int]]:
    return list(zip(edges.head.tolist(), edges.relation.tolist(), edges.tail.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(rows=triples)
def test_the_first_of_each_edge_stays_in_its_place(rows: list[tuple[int, int, int]]) -> None:
    kept = edges_of(rows).distinct()
    assert rows_of(kept) == list(dict.fromkeys(rows))
    assert kept.row.tolist() == [rows.index(row) for row in dict.fromkeys(rows)]


@settings(max_examples=60, deadline=None)
@given(rows=triples)
def test_turned_edges_are_the_others_way_round(rows: list[tuple[int, int, int]]) -> None:
    turned = edges_of(rows).turned({1: 5})
    assert rows_of(turned) == [(t, 5, h) if r == 1 else (h, r, t) for h, r, t in rows]


def test_names_keep_their_numbers() -> None:
    names = Names()
    assert names.add(pl.Series(["a", "b", "a"])).tolist() == [0, 1, 0]
    assert names.add(pl.Series(["c", "b"])).tolist() == [2, 1]
    assert names.to_list() == ["a", "b", "c"]


def test_order_is_the_same_where_the_numbers_do_not_fit_one_key() -> None:
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 5, 200) for _ in range(3)]
    large = [column * (2**30) for column in small]
    np.testing.assert_array_equal(order_by(*small), order_by(*large))
    np.testing.assert_array_equal(order_by(*small), np.lexsort(small[::-1]))


def test_inverse_relations_equal_the_slow_count() -> None:
    rng = np.random.default_rng(1)
    pairs = np.unique(rng.integers(0, 12, (60, 2)), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    head = np.concatenate([pairs[:, 0], pairs[:, 1], pairs[:9, 0]]).astype(np.int32)
    tail = np.concatenate([pairs[:, 1], pairs[:, 0], pairs[:9, 1]]).astype(np.int32)
    relation = np.repeat([0, 1, 2], [len(pairs), len(pairs), 9]).astype(np.uint16)
    edges = Edges(head, relation, tail, np.zeros(len(head), np.uint16), np.zeros(len(head), np.int32))
    forward, backward = (
        {(h, t) for h, r, t in zip(head, relation, tail, strict=True) if r == 0},
        {(t, h) for h, r, t in zip(head, relation, tail, strict=True) if r == 1},
    )
    assert forward == backward
    assert inverse_relations(edges, ["b", "a", "c"]) == {0: 1}
    assert inverse_relations(edges, ["a", "b", "c"]) == {1: 0}

"""Each metric against hand-worked cases, an independent slow version, and the properties it must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slipstream.dataset.queries import Holdout, Queries
from slipstream.evaluation.metrics import (
    ACCURACY,
    LITERATURE,
    accuracy,
    average_popularity,
    coverage,
    gini,
    hits_of,
    literature_ndcg,
    mean,
    ndcg,
    novelty,
    repeated,
)

ALL = {**ACCURACY, **LITERATURE}
ITEMS = 12


def holdout_of(targets: list[list[int]]) -> Holdout:
    count = len(targets)
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in targets])]).astype(np.int64)
    queries = Queries(np.arange(count, dtype=np.int32), np.zeros(count + 1, np.int64), np.zeros(0, np.int32))
    return Holdout(queries, offsets, np.array([i for t in targets for i in t], np.int32))


def lists_of(lists: list[list[int]], width: int) -> NDArray[np.int32]:
    table = np.full((len(lists), width), -1, np.int32)
    for row, items in enumerate(lists):
        table[row, : len(items)] = items[:width]
    return table


def slow(name: str, got: list[int], wanted: list[int], k: int) -> float:
    """One metric of one list by its definition, rank by rank."""
    if not wanted:
        return math.nan
    hit = [item in wanted and item not in got[:place] for place, item in enumerate(got)][:k]
    gain = sum(1 / math.log2(place + 2) for place, h in enumerate(hit) if h)
    first = [place + 1 for place, h in enumerate(hit) if h]
    if name == "HR":
        return 1.0 if first else 0.0
    if name == "MRR":
        return 1 / first[0] if first else 0.0
    if name == "Precision":
        return len(first) / k
    if name == "Recall":
        return len(first) / len(wanted)
    best = len(first) if name == "LiteratureNDCG" else min(k, len(wanted))
    ideal = sum(1 / math.log2(place + 2) for place in range(best))
    return gain / ideal if ideal else 0.0


items = st.integers(0, ITEMS - 1)
one_query = st.tuples(
    st.lists(items, max_size=8, unique=True), st.lists(items, min_size=1, max_size=8, unique=True)
)


def test_a_hand_worked_case() -> None:
    # targets 3 and 5; the list has 3 at rank 2 and 5 at rank 4
    values = accuracy(lists_of([[1, 3, 2, 5]], 4), holdout_of([[3, 5]]), [1, 4], ALL)
    assert values["HR@4"][0] == 1
    assert values["HR@1"][0] == 0
    assert values["MRR@4"][0] == 0.5
    assert values["Precision@4"][0] == 0.5
    assert values["Recall@4"][0] == 1
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    assert values["NDCG@4"][0] == pytest.approx(gain / (1 + 1 / math.log2(3)), abs=1e-12)


def test_the_literature_variant_forgives_missed_targets() -> None:
    hits = hits_of(lists_of([[7, 1, 2]], 10), holdout_of([[7, 8, 9]]))
    assert literature_ndcg(hits, 10)[0] == 1.0
    assert ndcg(hits, 10)[0] == pytest.approx(1 / (1 + 1 / math.log2(3) + 0.5))


@settings(deadline=None)
@given(st.lists(one_query, min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 8))
def test_fast_equals_slow(cases: list[tuple[list[int], list[int]]], k: int, width: int) -> None:
    got, wanted = [case[0][:width] for case in cases], [case[1] for case in cases]
    values = accuracy(lists_of(got, width), holdout_of(wanted), [k], ALL)
    for name in ALL:
        expected = [slow(name, g, w, k) for g, w in zip(got, wanted, strict=True)]
        np.testing.assert_allclose(values[f"{name}@{k}"], expected, atol=1e-12)


@settings(deadline=None)
@given(st.lists(items, max_size=8), st.lists(items, min_size=1, max_size=6, unique=True), st.integers(1, 9))
def test_a_repeated_item_counts_once(got: list[int], wanted: list[int], k: int) -> None:
    values = accuracy(lists_of([got], 8), holdout_of([wanted]), [k], ALL)
    for name in ALL:
        assert values[f"{name}@{k}"][0] == pytest.approx(slow(name, got, wanted, k), abs=1e-12)
        assert 0 <= values[f"{name}@{k}"][0] <= 1 + 1e-12


@settings(deadline=None)
@given(one_query, st.integers(1, 8))
def test_bounds_and_order_of_the_metrics(case: tuple[list[int], list[int]], k: int) -> None:
    values = {
        n: float(v[0]) for n, v in accuracy(lists_of([case[0]], 8), holdout_of([case[1]]), [k], ALL).items()
    }
    assert all(0 <= v <= 1 + 1e-12 for v in values.values())
    assert values[f"MRR@{k}"] <= values[f"HR@{k}"]
    assert values[f"NDCG@{k}"] <= values[f"LiteratureNDCG@{k}"] + 1e-12
    assert (values[f"NDCG@{k}"] > 0) == (values[f"HR@{k}"] == 1)


@settings(deadline=None)
@given(one_query)
def test_more_places_never_lose_hits(case: tuple[list[int], list[int]]) -> None:
    values = accuracy(lists_of([case[0]], 8), holdout_of([case[1]]), range(1, 9))
    for name in ("HR", "MRR", "Recall"):
        grown = [values[f"{name}@{k}"][0] for k in range(1, 9)]
        assert grown == sorted(grown)


@settings(deadline=None)
@given(st.lists(items, min_size=1, max_size=8, unique=True), st.integers(1, 8))
def test_the_ideal_list_scores_one(wanted: list[int], k: int) -> None:
    values = accuracy(lists_of([wanted], 8), holdout_of([wanted]), [k], ALL)
    assert values[f"NDCG@{k}"][0] == pytest.approx(1)
    assert values[f"LiteratureNDCG@{k}"][0] == pytest.approx(1)


@settings(deadline=None)
@given(st.lists(one_query, min_size=2, max_size=6), st.randoms())
def test_the_order_of_queries_does_not_matter(
    cases: list[tuple[list[int], list[int]]], random: object
) -> None:
    order = np.random.default_rng(len(cases)).permutation(len(cases))
    straight = accuracy(lists_of([c[0] for c in cases], 8), holdout_of([c[1] for c in cases]), [5], ALL)
    mixed = [cases[i] for i in order]
    shuffled = accuracy(lists_of([c[0] for c in mixed], 8), holdout_of([c[1] for c in mixed]), [5], ALL)
    for name, values in straight.items():
        np.testing.assert_array_equal(values[order], shuffled[name])


@settings(deadline=None)
@given(one_query, st.permutations(range(ITEMS)))
def test_renaming_the_items_changes_nothing(case: tuple[list[int], list[int]], names: list[int]) -> None:
    renamed = [[names[i] for i in part] for part in case]
    before = accuracy(lists_of([case[0]], 8), holdout_of([case[1]]), [5], ALL)
    after = accuracy(lists_of([renamed[0]], 8), holdout_of([renamed[1]]), [5], ALL)
    assert {n: v[0] for n, v in before.items()} == {n: v[0] for n, v in after.items()}


def test_empty_cases() -> None:
    values = accuracy(lists_of([[], [1]], 4), holdout_of([[1], []]), [4], ALL)
    assert all(v[0] == 0 for v in values.values())  # no list: nothing found
    assert all(math.isnan(v[1]) for v in values.values())  # no target: not defined
    assert mean(values["HR@4"]) == 0
    assert math.isnan(mean(np.array([])))
    none = accuracy(np.zeros((0, 4), np.int32), holdout_of([]), [4], ALL)
    assert all(len(v) == 0 for v in none.values())
    assert accuracy(np.zeros((1, 0), np.int32), holdout_of([[1]]), [4])["NDCG@4"][0] == 0


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 lists for 1 queries"):
        hits_of(lists_of([[1], [2]], 3), holdout_of([[1]]))
    with pytest.raises(ValueError, match="cut at 1 or more, got 0"):
        accuracy(lists_of([[1]], 3), holdout_of([[1]]), [0])


def test_repeats_are_found_after_the_first_place() -> None:
    found = repeated(lists_of([[4, 4, 2, 4], [1, 2, 3]], 5))
    assert found.tolist() == [[False, True, False, True, False], [False] * 5]


def test_beyond_accuracy_by_hand() -> None:
    lists = lists_of([[0, 1], [0, 2]], 2)
    counts = np.array([8, 4, 0, 1], np.int64)  # of 8 users; item 2 counts as touched by one
    assert coverage(lists, 2, 4) == 0.75
    assert coverage(lists, 1, 4) == 0.25
    np.testing.assert_allclose(novelty(lists, 2, counts, 8), [0.5, 1.5])
    np.testing.assert_allclose(average_popularity(lists, 2, counts, 8), [0.75, 0.5])
    empty = lists_of([[]], 2)
    assert math.isnan(novelty(empty, 2, counts, 8)[0])
    assert coverage(empty, 2, 4) == 0
    assert coverage(empty, 2, 0) == 0


@settings(deadline=None)
@given(st.lists(st.lists(items, min_size=1, max_size=5, unique=True), min_size=1, max_size=6))
def test_gini_equals_the_mean_difference(lists: list[list[int]]) -> None:
    shown = np.bincount([i for row in lists for i in row], minlength=ITEMS).astype(float)
    expected = np.abs(shown[:, None] - shown[None, :]).sum() / (2 * ITEMS * shown.sum())
    assert gini(lists_of(lists, 5), 5, ITEMS) == pytest.approx(expected, abs=1e-12)


def test_gini_of_nothing_is_zero() -> None:
    assert gini(lists_of([[]], 3), 3, 5) == 0

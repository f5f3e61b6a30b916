"""Item neighbours: counts by hand, exact parts, what is kept."""

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from slipstream.dataset.queries import query_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.models.history import Memory, event_weights, history_matrix, keep_largest
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.simple.item_neighbours import ItemNeighbours, ItemNeighboursSettings

PLAIN = ItemNeighboursSettings(
    window=2,
    distance_power=1.0,
    half_life=0.0,
    long_share=0.0,
    count_power=1.0,
    backward=0.5,
    source_power=0.0,
    target_power=0.0,
)


def histories(*people: str, ordered: bool = True) -> Snapshot:
    """One letter an item, one word a person."""
    rows = [(f"u{p}", item) for p, word in enumerate(people) for item in word]
    return snapshot_of(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"), ordered=ordered)


def fit(train: Snapshot, settings: ItemNeighboursSettings) -> ItemNeighbours:
    return ItemNeighbours.fit(TrainingData(train), settings, FitContext())


def test_pairs_by_hand() -> None:
    model = fit(histories("abc", "ab"), PLAIN)
    # after a: b twice at distance 1, c once at distance 2; after b: c once. Backwards counts half.
    assert model.score(query_of([0])).tolist() == [[0.0, 2.0, 0.5]]
    assert model.score(query_of([1])).tolist() == [[1.0, 0.0, 1.0]]
    assert model.score(query_of([2])).tolist() == [[0.25, 0.5, 0.0]]


def test_the_small_case_of_the_concept_page() -> None:
    settings = PLAIN.model_copy(update={"window": 10, "backward": 0.0, "target_power": 1.0})
    assert fit(histories("abc", "ac"), settings).score(query_of([0])).tolist() == [[0.0, 1.0, 0.75]]


def test_powers_divide_by_both_popularities() -> None:
    settings = PLAIN.model_copy(update={"count_power": 0.5, "source_power": 1.0, "target_power": 0.5})
    model = fit(histories("ab", "ab", "b"), settings)
    assert model.score(query_of([0]))[0, 1] == pytest.approx(np.sqrt(2) / (2 * np.sqrt(3)))


def test_without_an_order_a_pair_is_a_person() -> None:
    train = histories("abc", "ab", "ca", ordered=False)
    preset = ItemNeighbours.preset(TrainingData(train))
    assert preset.window == 0
    model = fit(train, preset)  # cosine: no validation, so the middle of the road
    assert model.score(query_of([0]))[0] == pytest.approx([0.0, 2 / np.sqrt(3 * 2), 2 / np.sqrt(3 * 2)])


def test_only_the_last_events_count_where_it_forgets() -> None:
    model = fit(histories("abcd", "bd"), PLAIN.model_copy(update={"half_life": 1.0}))
    one, two = (model.score(query_of([item]))[0] for item in (0, 1))
    both = model.score(query_of([0, 1]))[0]
    np.testing.assert_allclose(both, 0.5 * one + two, rtol=1e-6)


@given(
    st.lists(st.integers(-1, 5), max_size=12), st.sampled_from([0.0, 1.0, 4.0]), st.sampled_from([0.0, 0.2])
)
def test_the_parts_add_up_to_the_score(history: list[int], half_life: float, share: float) -> None:
    model = fit(
        histories("abcdef", "badc", "fae"),
        PLAIN.model_copy(update={"half_life": half_life, "long_share": share}),
    )
    query = query_of(history)
    parts = model.contributions(query, np.arange(6, dtype=np.int32))
    score = model.score(query)[0]
    if any(item >= 0 for item in history):
        np.testing.assert_allclose(parts.sum(axis=1), score, rtol=1e-5, atol=1e-6)
    else:
        assert np.isnan(score).all()
        assert (parts == 0).all()


def test_as_many_neighbours_as_allowed() -> None:
    wide = fit(histories("abcdefgh"), PLAIN.model_copy(update={"window": 7}))
    narrow = fit(histories("abcdefgh"), PLAIN.model_copy(update={"window": 7, "neighbours": 2}))
    row, kept = wide.score(query_of([3]))[0], narrow.score(query_of([3]))[0]
    assert (kept > 0).sum() == 2
    assert set(np.flatnonzero(kept)) == set(np.argsort(-row, kind="stable")[:2])


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5), st.integers(1, 6)
)
def test_keep_largest_is_the_obvious_thing(rows: list[list[int]], limit: int) -> None:
    dense = np.array(rows, np.float32)
    kept = keep_largest(sp.csr_matrix(dense), limit).toarray()
    for row, got in zip(dense, kept, strict=True):
        best = np.argsort(-row, kind="stable")[:limit]
        wanted = np.zeros_like(row)
        wanted[best] = row[best]
        np.testing.assert_array_equal(got, wanted)


def test_the_memory_by_hand() -> None:
    known = np.array([True, True, False])
    query = query_of([0, -1, 1, 2, 0])
    # unknown events do not push the others back: ranks 2, 1, 0
    assert event_weights(query, known, Memory(1.0)).tolist() == [0.25, 0.0, 0.5, 0.0, 1.0]
    assert history_matrix(query, known, Memory(1.0)).toarray().tolist() == [[1.25, 0.5, 0.0]]
    assert event_weights(query, known, Memory()).tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]
    slow = Memory(1.0, long_share=1.0).weights(np.array([0, 30]))
    assert slow == pytest.approx([1.0, 0.25], abs=1e-6)

"""The exact retriever: the fast one says what the slow one says, whatever ties, gaps and masks there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.inference.retriever import NOTHING, top_k, top_k_reference


def agree(scores: np.ndarray, k: int, excluded: np.ndarray | None) -> None:
    items, strengths = top_k(scores, k, excluded=excluded)
    assert items.shape == strengths.shape == (len(scores), k)
    for q, expected in enumerate(top_k_reference(scores, k, excluded=excluded)):
        assert items[q].tolist() == [i for i, _ in expected] + [NOTHING] * (k - len(expected))
        assert strengths[q].tolist() == [s for _, s in expected] + [-np.inf] * (k - len(expected))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 4),
    st.integers(1, 700),
    st.integers(1, 12),
    st.sampled_from([1, 3, 1_000_000]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_fast_equals_slow(
    queries: int, items: int, k: int, values: int, gaps: float, hidden: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, values, (queries, items)).astype(np.float32) - values // 2
    scores[random.random(scores.shape) < gaps] = random.choice([np.nan, -np.inf])
    before = scores.copy()
    agree(scores, k, None)
    agree(scores, k, random.random(scores.shape) < hidden)
    agree(scores, k, random.random(items) < hidden)
    np.testing.assert_array_equal(scores, before)  # the caller's scores are not touched


@pytest.mark.parametrize("items", [63, 239, 240, 1_682, 5_000])
def test_a_row_of_equals_gives_the_first_items(items: int) -> None:
    found, _ = top_k(np.zeros((2, items), np.float32), 20)
    assert found.tolist() == [list(range(20))] * 2


def test_nothing_to_say_and_nothing_to_rank() -> None:
    items, strengths = top_k(np.full((2, 900), np.nan, np.float32), 5)
    assert (items == NOTHING).all()
    assert (strengths == -np.inf).all()
    assert top_k(np.zeros((2, 0), np.float32), 3)[0].tolist() == [[NOTHING] * 3] * 2
    assert top_k(np.zeros((0, 900), np.float32), 3)[0].shape == (0, 3)


def test_infinite_scores_come_first() -> None:
    scores = np.zeros((1, 900), np.float32)
    scores[0, 700] = np.inf
    assert top_k(scores, 2)[0].tolist() == [[700, 0]]

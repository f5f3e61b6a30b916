"""Windows, chunks, targets and gaps of the packed stream."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.training.packing import (
    GAP_BINS,
    Histories,
    PackingPlan,
    SoftLabels,
    chunks,
    gap_bins,
)


def histories_of(lengths):
    """Event n of history u is item 1000 u + n: each item says where it came from."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item = np.concatenate([1000 * u + np.arange(n) for u, n in enumerate(lengths)] or [np.zeros(0)])
    return Histories(offsets, item.astype(np.int32), (np.arange(len(item)) % GAP_BINS).astype(np.uint8))


def epoch(lengths, seed=0, **plan):
    plan = PackingPlan(**{"window": 6, "chunk": 16, **plan})
    return list(chunks(histories_of(lengths), plan, np.random.default_rng(seed)))


lengths = st.lists(st.integers(0, 40), min_size=1, max_size=12)


@given(lengths, st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_every_event_but_the_last_is_an_input_once_with_its_next_as_the_target(lengths, seed):
    seen = []
    for chunk in epoch(lengths, seed):
        assert (chunk.target[: chunk.tokens, 0] == chunk.item[: chunk.tokens] + 1).all()
        assert (chunk.weight[: chunk.tokens, 0] == 1).all()
        assert (chunk.weight[chunk.tokens :] == 0).all()
        seen.extend(chunk.item[: chunk.tokens].tolist())
    expected = [1000 * u + n for u, length in enumerate(lengths) for n in range(length - 1)]
    assert sorted(seen) == sorted(expected)


@given(lengths, st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_a_window_is_a_run_of_one_history(lengths, seed):
    for chunk in epoch(lengths, seed):
        slots = np.arange(chunk.tokens)
        first = chunk.first[: chunk.tokens]
        assert (first <= slots).all()
        assert (slots - first < 6).all()
        assert (chunk.item[first] + (slots - first) == chunk.item[: chunk.tokens]).all()


def test_only_the_last_chunk_has_empty_slots():
    full = [chunk.tokens for chunk in epoch([30, 9, 2, 17])]
    assert full[:-1] == [16] * (len(full) - 1)


def test_recent_events_only():
    seen = np.concatenate([c.item[: c.tokens] for c in epoch([30, 3], last=4)])
    assert sorted(seen.tolist()) == [25, 26, 27, 28, 1000, 1001]


def test_several_targets_fade_and_stop_at_the_end_of_the_history():
    (chunk,) = epoch([5], targets=3)
    rows = {
        int(i): (t.tolist(), w.tolist())
        for i, t, w in zip(chunk.item, chunk.target, chunk.weight, strict=True)
    }
    assert rows[1] == ([2, 3, 4], pytest.approx([4 / 7, 2 / 7, 1 / 7]))
    assert rows[3][1] == pytest.approx([1, 0, 0])


def test_an_unordered_history_is_shuffled_every_epoch_and_has_no_gaps():
    first, second = (np.concatenate([c.item for c in epoch([40], seed, ordered=False)]) for seed in (1, 2))
    assert not np.array_equal(first, second)
    assert epoch([40], ordered=False)[0].gap is None


def test_deletion_keeps_order_and_about_its_share():
    parts = epoch([400] * 5, deletion=0.25, window=500, chunk=512)
    items = np.concatenate([c.item[: c.tokens] for c in parts])
    assert 0.65 < len(items) / 2000 < 0.85
    assert (np.concatenate([c.target[: c.tokens, 0] for c in parts]) > items).all()


def test_gap_bins():
    second = 1_000_000
    times = [5, 5, 5 + second // 2, 3 * second, 11 * second, 100 * 86400 * second, 0, 3 * second, 2 * second]
    bins = gap_bins(np.array(times, np.int64), np.array([0, 6, 6, 9]))
    assert bins.tolist() == [0, 1, 2, 3, 5, GAP_BINS - 1, 0, 3, 1]


def labelled(lengths, **plan):
    """Histories of `histories_of` whose every second event of a history has labels that say which it is."""
    plain = histories_of(lengths)
    row = np.full(len(plain.item), -1, np.int32)
    told = np.flatnonzero(plain.item % 2 == 0)
    row[told] = np.arange(len(told))
    item = np.stack([plain.item[told], plain.item[told] + 7], axis=1)
    weight = np.tile(np.float32([0.75, 0.25]), (len(told), 1))
    histories = replace(plain, labels=SoftLabels(row, item, weight, share=0.4))
    plan = PackingPlan(**{"window": 6, "chunk": 16, **plan})
    return list(chunks(histories, plan, np.random.default_rng(0)))


@pytest.mark.parametrize("plan", [{}, {"targets": 2}, {"deletion": 0.3}, {"last": 3}])
def test_an_event_keeps_its_labels_and_its_answer_still_weighs_one(plan):
    wide = plan.get("targets", 1)
    for chunk in labelled([30, 9, 2, 17], **plan):
        real = slice(chunk.tokens)
        np.testing.assert_allclose(chunk.weight[real].sum(axis=1), 1, rtol=1e-6)
        assert (chunk.weight[chunk.tokens :] == 0).all()
        told = np.flatnonzero(chunk.item[real] % 2 == 0)
        assert (chunk.target[told, wide:] - chunk.item[told, None] == [0, 7]).all()
        np.testing.assert_allclose(chunk.weight[told, wide:] - np.float32([0.3, 0.1]), 0, atol=1e-6)
        untold = np.flatnonzero(chunk.item[real] % 2 == 1)
        assert (chunk.weight[untold, wide:] == 0).all()


def test_shuffled_sets_take_their_labels_along():
    for chunk in labelled([30, 9, 2, 17], ordered=False):
        told = np.flatnonzero(chunk.weight[:, 1] > 0)
        assert (chunk.target[told, 1] == chunk.item[told]).all()

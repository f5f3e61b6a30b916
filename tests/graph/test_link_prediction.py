"""Filtered ranks equal the slow definition; ties, filters and unseen entities do what the page says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.graph import link_prediction
from slipstream.graph.link_prediction import filtered_ranks
from slipstream.inference.triple_embedding import FORMS, TripleEmbedding


def random_embedding(form: str, rng: np.random.Generator, entities: int = 9) -> TripleEmbedding:
    """Small whole numbers, so that ties are common and exact."""
    entity = rng.integers(-1, 2, (entities, 4)).astype(np.float32)
    width = 2 if form == "rotate" else 4
    return TripleEmbedding(form, entity, rng.integers(-1, 2, (4, width)).astype(np.float32))


def slow_rank(scores: np.ndarray, true: int, others: set[int]) -> float:
    """The mean place of the true one over all orders that the scores allow."""
    rivals = [scores[e] for e in range(len(scores)) if e != true and e not in others]
    best = 1 + sum(s > scores[true] for s in rivals)
    worst = 1 + sum(s >= scores[true] for s in rivals)
    return (best + worst) / 2


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_ranks_equal_the_slow_ones(form: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    embedding = random_embedding(form, rng)
    known = np.stack([rng.integers(0, 9, 30), rng.integers(0, 2, 30), rng.integers(0, 9, 30)], axis=1)
    test = known[:7]
    ranks = filtered_ranks(embedding, test, known[7:])
    facts = {tuple(map(int, row)) for row in known}
    for place, (h, r, t) in enumerate(test.tolist()):
        tails = embedding.scores(np.array([h]), np.array([r]))[0]
        heads = embedding.scores(np.array([t]), np.array([r + 2]))[0]
        assert ranks.tail[place] == slow_rank(tails, t, {e for e in range(9) if (h, r, e) in facts})
        assert ranks.head[place] == slow_rank(heads, h, {e for e in range(9) if (e, r, t) in facts})


def test_a_constant_scorer_gets_the_rank_of_chance() -> None:
    constant = TripleEmbedding("complex", np.zeros((101, 4), np.float32), np.zeros((2, 4), np.float32))
    ranks = filtered_ranks(constant, np.array([[0, 0, 1]]), np.zeros((0, 3), int))
    assert ranks.both.tolist() == [51.0, 51.0]
    assert ranks.summary()["Hits@10"] == 0


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    embedding = random_embedding("complex", rng)
    known = np.stack([rng.integers(0, 9, 30), rng.integers(0, 2, 30), rng.integers(0, 9, 30)], axis=1)
    whole = filtered_ranks(embedding, known, known)
    monkeypatch.setattr(link_prediction, "_BLOCK_BYTES", 1)
    np.testing.assert_array_equal(filtered_ranks(embedding, known, known).both, whole.both)


def test_summary_of_known_ranks() -> None:
    ranks = link_prediction.LinkRanks(np.array([1.0, 2.0]), np.array([4.0, 20.0]))
    summary = ranks.summary()
    assert summary["MRR"] == pytest.approx((1 + 0.5 + 0.25 + 0.05) / 4)
    assert (summary["Hits@1"], summary["Hits@3"], summary["Hits@10"]) == (0.25, 0.5, 0.75)
    assert summary["MRR of tails"] == 0.75
    assert link_prediction.LinkRanks(np.zeros(0), np.zeros(0)).summary() == {}

"""EASE: against the definition, and the restricted form against the whole."""

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from slipstream.dataset.queries import query_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.errors import ConfigError
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.simple import ease
from slipstream.models.simple.ease import Ease, EaseSettings, exact_weights, restricted_weights


def random_matrix(people: int = 60, items: int = 25, seed: int = 1, rarest: float = 0.05) -> sp.csr_matrix:
    draw = np.random.default_rng(seed)
    chance = np.linspace(rarest, 0.6, items)
    return sp.csr_matrix((draw.random((people, items)) < chance).astype(np.float32))


def gram_of(matrix: sp.csr_matrix) -> sp.csr_matrix:
    gram = (matrix.T @ matrix).tocsr()
    gram.sort_indices()
    return gram


def snapshot_from(matrix: sp.csr_matrix) -> Snapshot:
    people, items = matrix.nonzero()
    frame = pl.DataFrame({"user_id": [f"u{p:03}" for p in people], "item_id": [f"i{i:03}" for i in items]})
    return snapshot_of(frame, ordered=False)


def by_definition(gram: np.ndarray, ridge: float) -> np.ndarray:
    """Each column on its own: ridge regression of item i on all the others."""
    size = len(gram)
    weights = np.zeros((size, size))
    for item in range(size):
        others = np.delete(np.arange(size), item)
        square = gram[np.ix_(others, others)] + ridge * np.eye(size - 1)
        weights[others, item] = np.linalg.solve(square, gram[others, item])
    return weights


def test_the_closed_form_is_the_regression_of_each_item_on_the_others() -> None:
    gram = gram_of(random_matrix())
    expected = by_definition(gram.toarray().astype(np.float64), 5.0)
    got = exact_weights(gram, 5.0, 25, positive=False).toarray()
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)


def test_restricted_to_everything_is_the_whole() -> None:
    gram = gram_of(random_matrix(rarest=0.4))
    assert gram.nnz == 25 * 25  # every pair of items shares somebody
    whole = exact_weights(gram, 5.0, 25, positive=False).toarray()
    np.testing.assert_allclose(restricted_weights(gram, [5.0], 24)[0].toarray(), whole, rtol=2e-3, atol=2e-4)


def test_restricted_to_a_few_uses_those_with_most_in_common() -> None:
    gram = gram_of(random_matrix())
    (weights,) = restricted_weights(gram, [5.0], 3)
    dense = gram.toarray()
    np.fill_diagonal(dense, 0)
    for item in range(25):
        used = np.flatnonzero(weights[:, [item]].toarray()[:, 0])
        assert len(used) <= 3
        assert dense[item, used].min() >= np.sort(dense[item])[-3]


def test_long_rows_are_searched_and_short_ones_read_with_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    gram = gram_of(random_matrix())
    read = restricted_weights(gram, [2.0, 50.0], 6)
    monkeypatch.setattr(ease, "LOOKUPS", 0)
    searched = restricted_weights(gram, [2.0, 50.0], 6)
    for one, other in zip(read, searched, strict=True):
        np.testing.assert_array_equal(one.toarray(), other.toarray())
    assert not np.allclose(read[0].toarray(), read[1].toarray())


def test_keeping_few_keeps_the_largest() -> None:
    gram = gram_of(random_matrix())
    whole = exact_weights(gram, 5.0, 25, positive=False).toarray()
    few = exact_weights(gram, 5.0, 4, positive=False).toarray()
    good = exact_weights(gram, 5.0, 4, positive=True).toarray()
    assert (np.count_nonzero(few, axis=1) == 4).all()
    for row, kept, positive in zip(whole, few, good, strict=True):
        np.testing.assert_array_equal(kept[kept != 0], row[kept != 0])
        assert np.abs(kept[kept != 0]).min() >= np.sort(np.abs(row))[-4]
        assert positive.min() >= 0
        assert set(np.flatnonzero(positive)) <= set(np.argsort(-row)[:4])


@pytest.mark.parametrize("exact_items", [100, 0])
def test_the_parts_add_up_to_the_score(exact_items: int) -> None:
    train = snapshot_from(random_matrix())
    settings = EaseSettings(ridge=5.0, half_life=2.0, long_share=0.1, positive=False, exact_items=exact_items)
    model = Ease.fit(TrainingData(train), settings, FitContext())
    assert model.report.notes["exact"] is (exact_items == 100)
    query = query_of([3, -1, 24, 3, 7])
    parts = model.contributions(query, np.arange(25, dtype=np.int32))
    np.testing.assert_allclose(parts.sum(axis=1), model.score(query)[0], rtol=1e-5, atol=1e-6)


def test_without_forgetting_the_order_of_a_history_does_not_matter() -> None:
    train = snapshot_from(random_matrix())
    data = TrainingData(train)
    model = Ease.fit(data, Ease.preset(data), FitContext())
    np.testing.assert_allclose(model.score(query_of([1, 2, 3])), model.score(query_of([3, 1, 2])), rtol=1e-6)


def test_a_ridge_too_small_to_invert_says_so() -> None:
    twins = sp.csr_matrix(np.ones((4, 3), np.float32))
    with pytest.raises(ConfigError, match="too small"):
        exact_weights(gram_of(twins), 1e-12, 3, positive=False)

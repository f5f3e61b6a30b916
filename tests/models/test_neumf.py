"""Neural matching: the formula by hand, with and without its tower."""

import numpy as np
import polars as pl
import pytest

from slipstream.dataset.queries import queries_of, query_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.models.deep.neumf import NeuMF, NeuMFSettings
from slipstream.models.recommender import Embeds, FitContext, TrainingData

QUICK = NeuMFSettings(
    dim=8, tower_dim=8, hidden=8, epochs=30, users_per_batch=8, weight_decay=0.0, dropout=0.0, negatives=32
)


def groups(people: int = 40) -> TrainingData:
    """Even people touch even items only, odd people odd ones; each misses one of its group."""
    rows = [
        (f"u{p:02}", f"i{n:02}")
        for p in range(people)
        for n in range(p % 2, 20, 2)
        if n // 2 != (p // 2) % 10
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    return TrainingData(snapshot_of(frame, ordered=False))


@pytest.mark.parametrize("tower", [True, False])
def test_it_finds_the_missing_item_of_the_group(tower: bool) -> None:
    data = groups()
    model = NeuMF.fit(data, QUICK.model_copy(update={"tower": tower}), FitContext())
    queries = queries_of(data.train, np.arange(40))
    scores = model.score(queries)
    scores[queries.rows(), queries.item] = -np.inf
    wanted = [p % 2 + 2 * ((p // 2) % 10) for p in range(40)]
    assert (scores.argmax(axis=1) == wanted).mean() > 0.95


def test_the_score_by_hand() -> None:
    draw = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape).astype(np.float32)

    weights = {"item": some(5, 3), "person": some(2, 3), "product": some(3), "popularity": some(5)}
    weights |= {"tower_item": some(5, 2), "tower_person": some(2, 2), "from_person": some(2, 4)}
    weights |= {"from_item": some(2, 4), "first_bias": some(4), "second": some(4, 2)}
    weights |= {"second_bias": some(2), "last": some(2)}
    settings = NeuMFSettings(dim=3, tower_dim=2, hidden=4, half_life=0.0)
    model = NeuMF(weights, np.ones(5, bool), settings)
    got = model.score(query_of([1, 3], user=1))[0]
    user = weights["person"][1] + (weights["item"][1] + weights["item"][3]) / np.sqrt(2)
    tower = weights["tower_person"][1] + (weights["tower_item"][1] + weights["tower_item"][3]) / np.sqrt(2)
    for item in range(5):
        first = tower @ weights["from_person"] + weights["tower_item"][item] @ weights["from_item"]
        first = np.maximum(first + weights["first_bias"], 0)
        second = np.maximum(first @ weights["second"] + weights["second_bias"], 0)
        product = (weights["product"] * user * weights["item"][item]).sum()
        assert got[item] == pytest.approx(
            product + second @ weights["last"] + weights["popularity"][item], rel=1e-4, abs=1e-5
        )
    plain = NeuMF(weights, np.ones(5, bool), settings.model_copy(update={"tower": False}))
    expected = weights["item"] @ (weights["product"] * user) + weights["popularity"]
    np.testing.assert_allclose(plain.score(query_of([1, 3], user=1))[0], expected, rtol=1e-5, atol=1e-6)


def test_it_does_not_pretend_to_have_vectors() -> None:
    assert not isinstance(NeuMF.fit(groups(), QUICK.model_copy(update={"epochs": 1}), FitContext()), Embeds)


def test_a_known_person_without_a_history_has_an_answer_and_a_stranger_has_none() -> None:
    model = NeuMF.fit(groups(), QUICK.model_copy(update={"epochs": 2}), FitContext())
    assert np.isfinite(model.score(query_of([], user=0))).all()
    assert np.isnan(model.score(query_of([], user=-1))).all()
    assert np.isfinite(model.score(query_of([3], user=-1))).all()

"""The bilinear model: the worked example, exact parts, strangers, features."""

import numpy as np
import polars as pl
import pytest

from slipstream.dataset.queries import Holdout, queries_of, query_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.features.items import item_features
from slipstream.models.deep.bilinear import Bilinear, BilinearSettings, bilinear
from slipstream.models.recommender import FitContext, TrainingData

QUICK = BilinearSettings(dim=8, epochs=30, users_per_batch=8, weight_decay=0.0, dropout=0.0)


def test_the_worked_example() -> None:
    u, i, b = [0.2, 0.3, 0.5], [0.1, 0.4, 0.3], 0.6
    w = [[0.2, 0.1, 0.6], [0.3, 0.4, 0.2], [0.5, 0.3, 0.1]]
    assert np.array(u) @ np.array(w) @ np.array(i) + b == pytest.approx(0.823)
    assert bilinear(u, w, i, b) == pytest.approx(0.695, abs=5e-4)
    assert bilinear(u, np.zeros((3, 3)), i, b) == pytest.approx(1 / (1 + np.exp(-b)))  # W counts


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


@pytest.mark.parametrize("loss", ["softmax", "sampled", "logistic"])
def test_it_finds_the_missing_item_of_the_group(loss: str) -> None:
    data = groups()
    longer = 120 if loss == "logistic" else 30
    settings = BilinearSettings(**{**QUICK.model_dump(), "loss": loss, "epochs": longer})
    model = Bilinear.fit(data, settings, FitContext())
    queries = queries_of(data.train, np.arange(40))
    scores = model.score(queries)
    scores[queries.rows(), queries.item] = -np.inf
    best = scores.argmax(axis=1)
    wanted = [p % 2 + 2 * ((p // 2) % 10) for p in range(40)]
    assert (best == wanted).mean() > 0.95


def test_the_score_is_the_formula_and_its_parts_add_up() -> None:
    data = groups()
    model = Bilinear.fit(data, BilinearSettings(**{**QUICK.model_dump(), "own_vector": False}), FitContext())
    query = query_of([0, 2, 4, -1, 2])
    parts = model.contributions(query, np.arange(20, dtype=np.int32))
    constant = model.item_vectors()[:, -2:].sum(axis=1)
    np.testing.assert_allclose(parts.sum(axis=1) + constant, model.score(query)[0], rtol=1e-4, atol=1e-4)
    assert (parts[:, 3] == 0).all()


def test_a_stranger_is_answered_from_the_history_and_the_next_click_counts() -> None:
    model = Bilinear.fit(groups(), QUICK, FitContext())
    assert np.isnan(model.score(query_of([]))).all()
    even, odd = model.score(query_of([0, 2]))[0], model.score(query_of([0, 2, 1, 3, 5, 7]))[0]
    assert even[4::2].mean() > even[5::2].mean()
    assert odd[9] - odd[8] > even[9] - even[8]


def test_an_item_without_events_has_a_vector_from_its_features() -> None:
    rows = [(f"u{p}", f"i{n:02}") for p in range(30) for n in range(p % 2, 19, 2)]
    train = snapshot_of(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"), ordered=False)
    table = pl.DataFrame({"item_id": [f"i{n:02}" for n in range(20)], "side": ["even", "odd"] * 10})
    wide = snapshot_of(
        pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"),
        items=type(train.items).of([f"i{n:02}" for n in range(20)]),
        ordered=False,
    )
    data = TrainingData(wide, item_features=item_features(table, wide.items))
    model = Bilinear.fit(data, QUICK, FitContext())
    even, odd = model.score(queries_of(wide, np.array([0, 1])))[:, 19]
    assert np.isfinite([even, odd]).all()
    assert odd > even  # item 19 is odd and was never touched
    off = Bilinear.fit(data, BilinearSettings(**{**QUICK.model_dump(), "features": False}), FitContext())
    assert np.isnan(off.score(queries_of(wide, np.array([0])))[0, 19])


def test_it_stops_when_validation_gets_worse_and_keeps_the_best() -> None:
    data = groups()
    queries = queries_of(data.train, np.arange(40))
    target = np.array([p % 2 + 2 * ((p // 2) % 10) for p in range(40)], np.int32)
    validated = TrainingData(data.train, Holdout(queries, np.arange(41), target))
    model = Bilinear.fit(validated, QUICK, FitContext())
    values = [row["validation_ndcg@10"] for row in model.report.curve]
    assert model.report.notes["best_epoch"] == int(np.argmax(values)) + 1
    assert max(values) > 0.9

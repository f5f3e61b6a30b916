"""iALS: each half step against the plain normal equations, and what a fold-in promises."""

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.dataset.queries import Holdout, queries_of, query_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.models.recommender import Continues, Earlier, FitContext, TrainingData, refit
from slipstream.models.simple.ials import ITERATIONS, Ials, IalsSettings, _padded, _Side
from slipstream.models.validation import validation_ndcg

CHOSEN = IalsSettings(dim=6, iterations=5, unobserved=0.2, regularisation=0.02, half_life=0.0)


def world(people: int = 50, items: int = 30) -> TrainingData:
    draw = np.random.default_rng(3)
    rows = [
        (f"u{p:02}", f"i{i:02}")
        for p in range(people)
        for i in draw.choice(items, draw.integers(1, 25), replace=False)
        if (i + p) % 3 or p % 5 == 0
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    return TrainingData(snapshot_of(frame, ordered=False))


@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 20])  # shorter and longer than the 6 dimensions
def test_a_row_solves_its_normal_equations(length: int) -> None:
    draw = np.random.default_rng(length)
    factors = draw.standard_normal((30, 6)).astype(np.float32)
    column = draw.choice(30, length, replace=False).astype(np.int32)
    weight = draw.uniform(0.1, 1.0, length).astype(np.float32)
    got = _Side.of(factors, CHOSEN).solve(np.array([0, length]), column, weight)[0]
    own = factors[column].astype(np.float64)
    ridge = 0.02 * (length + 0.2 * 30)
    square = (
        0.2 * factors.T.astype(np.float64) @ factors + own.T @ (weight[:, None] * own) + ridge * np.eye(6)
    )
    np.testing.assert_allclose(got, np.linalg.solve(square, own.T @ weight), rtol=1e-3, atol=1e-4)


def test_rows_of_all_lengths_at_once_equal_one_by_one() -> None:
    draw = np.random.default_rng(0)
    side = _Side.of(draw.standard_normal((40, 6)).astype(np.float32), CHOSEN)
    lengths = np.array([3, 0, 17, 1, 9, 40, 5])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    column = np.concatenate([draw.permutation(40)[:n] for n in lengths]).astype(np.int32)
    weight = np.ones(len(column), np.float32)
    together = side.solve(offsets, column, weight)
    for row, (a, b) in enumerate(itertools.pairwise(offsets)):
        alone = side.solve(np.array([0, b - a]), column[a:b], weight[a:b])[0]
        np.testing.assert_allclose(together[row], alone, rtol=1e-5, atol=1e-6)
    assert (together[1] == 0).all()


def loss(model: Ials, data: TrainingData) -> float:
    """What CHOSEN minimises, with the people solved for the items."""
    matrix, items = data.train.matrix().toarray(), model.item_vectors()
    people = model.query_vectors(queries_of(data.train, np.arange(data.train.user_count)))
    product = people @ items.T
    seen = ((matrix * (matrix - product)) ** 2).sum() + 0.2 * (product**2).sum()
    weights = [
        0.02 * (matrix.sum(1) + 0.2 * matrix.shape[1]),
        0.02 * (matrix.sum(0) + 0.2 * matrix.shape[0]),
    ]
    return float(seen + (weights[0] * (people**2).sum(1)).sum() + (weights[1] * (items**2).sum(1)).sum())


def test_every_round_lowers_the_loss() -> None:
    data = world()
    rounds = [CHOSEN.model_copy(update={"iterations": count}) for count in (1, 2, 4, 8)]
    losses = [loss(Ials.fit(data, settings, FitContext()), data) for settings in rounds]
    assert losses == sorted(losses, reverse=True)


def test_a_warm_start_is_where_many_rounds_end_under_other_numbers() -> None:
    """One more day: a person more, an event more, a new item; everything numbered the other way round."""
    settled = CHOSEN.model_copy(update={"iterations": 60})
    old = world()
    base = Ials.fit(old, settled, FitContext())
    rows = pl.DataFrame(
        {
            "user_id": old.train.users.series("user_id").gather(old.train.user),
            "item_id": old.train.items.series("item_id").gather(old.train.item),
        }
    )
    day = pl.DataFrame({"user_id": ["u00", "z", "z", "z"], "item_id": ["new", "new", "i03", "i07"]})
    names = Vocabulary.of(["new", *old.train.items.to_list()[::-1]])
    data = TrainingData(snapshot_of(pl.concat([rows, day]), ordered=False, items=names))
    numbers = old.train.items.numbers(names.series("item_id"))
    earlier = Earlier(base, numbers, old.train.users.numbers(data.train.users.series("user_id")))
    assert issubclass(Ials, Continues)
    warm = Ials.fit_on(data, settled, FitContext(), earlier)
    assert warm.report.notes["warm_start"] is True
    two = Ials.fit(data, settled.model_copy(update={"iterations": 2}), FitContext())
    whole = loss(Ials.fit(data, settled, FitContext()), data)
    assert loss(warm, data) < 1.01 * whole
    assert loss(two, data) > 1.02 * whole  # two rounds from nothing are no match for one from yesterday
    again = refit(warm, data, FitContext())
    assert loss(again, data) < loss(warm, data)
    assert again.report.notes["warm_start"] is True
    other = Ials.fit_on(data, CHOSEN, FitContext(), earlier)
    assert "warm_start" not in other.report.notes
    assert "warm_start" not in refit(other, data, FitContext()).report.notes


def test_a_stranger_with_a_known_history_is_like_its_owner() -> None:
    data = world()
    model = Ials.fit(data, CHOSEN, FitContext())
    owner = model.score(queries_of(data.train, np.array([4])))
    stranger = model.score(query_of(data.train.history(4).tolist()))
    np.testing.assert_allclose(stranger, owner, rtol=1e-5)
    clicked = model.score(query_of([*data.train.history(4).tolist(), 29]))
    assert not np.allclose(clicked, owner)


def test_the_middle_of_the_road_without_validation() -> None:
    model = Ials.fit(world(), IalsSettings(dim=4, iterations=2), FitContext())
    assert model.settings.unobserved > 0
    assert model.settings.regularisation == 0.01


@pytest.mark.parametrize("seed", range(4))
def test_the_number_of_rounds_is_the_one_that_validation_likes_best(seed: int) -> None:
    data = world()
    asked = queries_of(data.train, np.arange(data.train.user_count))
    target = np.random.default_rng(seed).integers(0, data.train.item_count, len(asked)).astype(np.int32)
    judged = replace(data, validation=Holdout(asked, np.arange(len(asked) + 1), target, repeat=True))
    left_open = CHOSEN.model_copy(update={"iterations": None})
    found = Ials.fit(judged, left_open, FitContext())
    fixed = [left_open.model_copy(update={"iterations": rounds}) for rounds in ITERATIONS]
    models = [Ials.fit(judged, settings, FitContext()) for settings in fixed]
    quality = [validation_ndcg(model.score, judged.validation) for model in models]
    best = int(np.argmax(quality))
    assert max(quality) > min(quality)
    assert found.settings == fixed[best]
    np.testing.assert_array_equal(found.item_vectors(), models[best].item_vectors())


@given(st.lists(st.integers(0, 5_000), min_size=1))
def test_padding_is_little(lengths: list[int]) -> None:
    padded = _padded(np.array(lengths))
    assert (padded >= lengths).all()
    assert (padded <= np.maximum(np.array(lengths) * 1.125 + 1, 1)).all()

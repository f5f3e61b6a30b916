"""Fusion: weights that fit, members that fail or say nothing, parts that survive saving."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from slipstream.artifacts import open_artifact, writing
from slipstream.dataset.queries import Holdout, queries_of, query_of
from slipstream.dataset.snapshot import snapshot_of
from slipstream.errors import ConfigError, UnknownName
from slipstream.models.fusion import Fusion, FusionSettings
from slipstream.models.fusion_weights import Bench, coordinate_search, standardised
from slipstream.models.recommender import FitContext, FitReport, TrainingData, refit, refits
from slipstream.models.registry import load_model, model_type, save_model
from slipstream.models.validation import validation_ndcg


class Fixed:
    """Scores that were written down: one row per user."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.settings, self.report = rows.astype(np.float32), FusionSettings(), FitReport()

    def score(self, queries: Any) -> np.ndarray:
        return self.rows[queries.user]


def circle(people: int = 40, items: int = 16) -> TrainingData:
    rows = [(f"u{p:02}", f"i{(p * 5 + s) % items:02}") for p in range(people) for s in range(5 + p % 4)]
    train = snapshot_of(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"))
    target = [(p * 5 + 5 + p % 4) % items for p in range(people)]
    queries = queries_of(train, np.arange(people))
    return TrainingData(train, Holdout(queries, np.arange(people + 1), np.array(target, np.int32)))


def test_standardising_by_hand() -> None:
    scores = np.array(
        [[1.0, 3.0, 9.0, np.nan], [5.0, 5.0, 5.0, 5.0], [np.nan] * 4, [1.0, np.inf, 3.0, 2.0]], np.float32
    )
    queries = query_of([2]), query_of([]), query_of([]), query_of([])
    rows = np.concatenate([standardised(scores[[n]], q) for n, q in enumerate(queries)])
    assert rows[0].tolist()[:3] == [-1.0, 1.0, 7.0]  # mean 2 and deviation 1 are those of the unseen items
    assert np.isnan(rows[0, 3])
    assert (rows[1] == 0).all()
    assert np.isnan(rows[2]).all()
    assert np.isnan(rows[3, 1])
    np.testing.assert_allclose(rows[3, [0, 2, 3]], [-1.2247449, 1.2247449, 0.0], atol=1e-6)


def test_the_weights_use_what_each_member_knows() -> None:
    """One member knows the target's half of the items, the other its place in the half: only both find it."""
    data = circle()
    target = data.validation.target
    half = np.zeros((40, 16))
    half[np.arange(40)[:, None], (target[:, None] // 8) * 8 + np.arange(8)] = 1.0
    place = np.zeros((40, 16))
    place[np.arange(40), target % 8] = place[np.arange(40), target % 8 + 8] = 1.0
    noise = np.random.default_rng(0).random((40, 16))
    bench = Bench.of([Fixed(half), Fixed(place), Fixed(noise)], data.validation, 16)
    weights, value = coordinate_search(bench)
    assert value == pytest.approx(1.0)
    assert weights[0] > 0
    assert weights[1] > 0
    assert value > max(bench.ndcg(row) for row in np.eye(3))


def test_a_member_stays_until_validation_is_better_without() -> None:
    """Two that agree on everything both stay; three that mislead are outweighed."""
    data = circle()
    right = np.zeros((40, 16))
    right[np.arange(40), data.validation.target] = 1.0
    alike = [Fixed(right), Fixed(right)]
    assert coordinate_search(Bench.of(alike, data.validation, 16))[0].tolist() == pytest.approx([1.0, 1 / 3])
    wrong = [Fixed(-right)] * 3
    weights, value = coordinate_search(Bench.of([*alike, *wrong], data.validation, 16))
    assert value == pytest.approx(1.0)
    assert weights[:2].sum() > weights[2:].sum()


def test_the_bench_agrees_with_the_model() -> None:
    data = circle()
    settings = FusionSettings(members=("item_neighbours", "ease", "popularity"), weights=(1.0, 0.5, 0.2))
    model = Fusion.fit(data, settings, FitContext())
    bench = Bench.of(list(model._members.values()), data.validation, 10)
    assert bench.ndcg(np.array([1.0, 0.5, 0.2])) == pytest.approx(
        validation_ndcg(model.score, data.validation)
    )


def test_it_is_not_worse_than_its_best_member_on_validation() -> None:
    data = circle()
    model = Fusion.fit(data, FusionSettings(members=("ease", "item_neighbours", "popularity")), FitContext())
    notes = model.report.notes
    assert notes["validation_ndcg"] >= max(notes["validation_ndcg_alone"].values())
    assert validation_ndcg(model.score, data.validation) == pytest.approx(notes["validation_ndcg"])
    assert all(weight > 0 for weight in model.settings.weights)


def test_a_member_that_cannot_be_fitted_is_left_out_and_named() -> None:
    data = circle()
    lonely = TrainingData(snapshot_of(pl.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"]})))
    model = Fusion.fit(lonely, FusionSettings(members=("transformer", "popularity")), FitContext())
    assert model.settings.members == ("popularity",)
    assert "nothing to learn" in model.report.notes["left_out"]["transformer"]
    with pytest.raises(UnknownName):
        Fusion.fit(data, FusionSettings(members=("no_such_model",)), FitContext())


def test_silence_of_one_member_is_neither_for_nor_against() -> None:
    data = circle()
    model = Fusion.fit(
        data, FusionSettings(members=("item_neighbours", "popularity"), weights=(1, 1)), FitContext()
    )
    alone = model_type("popularity").fit(data, model_type("popularity").preset(data), FitContext())
    nobody = query_of([])  # the neighbours say nothing about an empty history
    np.testing.assert_allclose(model.score(nobody), standardised(alone.score(nobody), nobody), rtol=1e-5)
    silent = Fusion.fit(data, FusionSettings(members=("item_neighbours",)), FitContext())
    assert np.isnan(silent.score(nobody)).all()


def test_explanations_come_from_the_strongest_member() -> None:
    data = circle()
    settings = FusionSettings(members=("ease", "item_neighbours"), weights=(0.1, 1.0))
    model = Fusion.fit(data, settings, FitContext())
    strongest = model._members["item_neighbours"]
    query, items = query_of([0, 3, 5]), np.array([6, 7], np.int32)
    np.testing.assert_array_equal(model.contributions(query, items), strongest.contributions(query, items))
    mute = Fusion.fit(data, FusionSettings(members=("popularity",)), FitContext())
    assert mute.contributions(query, items).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert mute.paths(query, 6, 3) == []


def test_members_are_parts_of_the_artifact(tmp_path: Any) -> None:
    data = circle()
    model = Fusion.fit(data, FusionSettings(members=("ease", "item_neighbours")), FitContext())
    with writing(tmp_path / "kept", "model") as writer:
        save_model("fusion", model, writer)
    _, again = load_model(open_artifact(tmp_path / "kept", "model"))
    queries = queries_of(data.train, np.arange(10))
    np.testing.assert_array_equal(again.score(queries), model.score(queries))
    assert again.settings == model.settings


def test_a_refit_spares_what_stops_early() -> None:
    data = circle()
    quick = {"bilinear": {"dim": 4, "epochs": 3, "users_per_batch": 8}}
    settings = FusionSettings(members=("bilinear", "item_neighbours"), weights=(1, 1), member_settings=quick)
    model = Fusion.fit(data, settings, FitContext())
    assert refits(model)
    assert not refits(Fusion)  # the class cannot know its members
    again = refit(model, TrainingData(data.train), FitContext())
    assert again._members["bilinear"] is model._members["bilinear"]
    assert again._members["item_neighbours"] is not model._members["item_neighbours"]


@pytest.mark.parametrize(
    "settings",
    [
        {"members": ()},
        {"members": ("ease", "ease")},
        {"members": ("fusion", "ease")},
        {"members": ("ease", "popularity"), "weights": (1.0,)},
        {"members": ("ease", "popularity"), "weights": (1.0, -1.0)},
        {"members": ("ease", "popularity"), "weights": (0.0, 0.0)},
        {"members": ("ease",), "member_settings": {"popularity": {}}},
        {"members": ("ease",), "member_settings": {"ease": {"no_such_setting": 1}}},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Fusion.fit(circle(), FusionSettings(**settings), FitContext())


class Tally(Fixed):
    """What comes after the latest items scores most; its state is the list of what it has seen."""

    class Seen(list[tuple[int, int]]):
        nbytes = 10

    def start(self, query: Any) -> "Tally.Seen":
        return self.Seen(zip(query.item.tolist(), query.time_us.tolist(), strict=True))

    def advance(self, state: "Tally.Seen", item: int, time_us: int) -> None:
        state.append((item, time_us))

    def score_from(self, state: "Tally.Seen", query: Any) -> np.ndarray:
        row = np.zeros((1, 6), np.float32)
        for item, time_us in state:
            row[0, (item + 1) % 6] += time_us
        return row

    def score(self, queries: Any) -> np.ndarray:
        return self.score_from(self.start(queries), queries)


def test_members_that_keep_a_state_are_advanced_and_the_others_asked() -> None:
    fixed = Fixed(np.array([[0.0, 3, 1, 2, 5, 1]]))
    model = Fusion(
        {"tally": Tally(fixed.rows), "fixed": fixed}, np.array([0.7, 0.3]), FusionSettings(), FitReport()
    )
    whole = query_of([0, 2, 2], user=0, times_us=[1, 5, 9])
    state = model.start(query_of([0], user=0, times_us=[1]))
    assert state.nbytes == 10
    model.advance(state, 2, 5)
    model.advance(state, 2, 9)
    np.testing.assert_array_equal(model.score_from(state, whole), model.score(whole))
    assert not np.array_equal(
        model.score_from(model.start(query_of([], times_us=[])), whole), model.score(whole)
    )

"""Models of the registry through a release: what comes back from the files answers as what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from slipstream.dataset.queries import queries_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.models.recommender import ExplainsByHistory, FitContext, TrainingData
from slipstream.models.registry import model_names, model_type
from slipstream.recommend.likeness import LISTED, Likeness
from slipstream.recommend.pipeline import Pipeline, Request, rank
from slipstream.recommend.release import Named, Release, write_release
from slipstream.recommend.rules import Rules

LIGHT = ("item_neighbours", "ease")


def clubs() -> Snapshot:
    """60 people in 4 clubs of 8 items; each took 6 of the club's items in an order of their own."""
    rng = np.random.default_rng(3)
    rows = [
        (f"p{person}", f"c{person % 4}-{item}", place)
        for person in range(60)
        for place, item in enumerate(rng.permutation(8)[:6])
    ]
    return snapshot_of(pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row"))


@pytest.mark.parametrize("name", LIGHT)
def test_a_model_of_the_registry_is_served_as_it_was_trained(tmp_path: Path, name: str) -> None:
    if name not in model_names():
        pytest.skip(f"there is no model {name} yet")
    data = clubs()
    training = TrainingData(data)

    def fitted(name: str) -> Named:
        cls = model_type(name)
        return Named(name, cls.fit(training, cls.preset(training), FitContext()))

    primary = fitted(name)
    items = pl.DataFrame(
        {"item_id": data.items.to_list(), "title": [f"Title {i}" for i in data.items.to_list()]}
    )
    write_release(tmp_path, "r", snapshot=data, primary=primary, popularity=fitted("popularity"), items=items)
    release = Release.open(tmp_path / "r")
    pipeline = Pipeline(release)
    queries = queries_of(data, np.arange(data.user_count))
    expected, scores = rank(primary.model, queries, 2)
    assert isinstance(release.primary, ExplainsByHistory)
    for user in range(data.user_count):
        history = data.items.texts(data.history(user))
        slate = pipeline.recommend(Request(history=history, k=2, explain=True))
        assert [item.item_id for item in slate.items] == data.items.texts(expected[user])
        assert [item.score for item in slate.items] == pytest.approx(scores[user].tolist(), rel=1e-5)
        for item in slate.items:
            assert item.item_id.partition("-")[0] == history[0].partition("-")[0]  # of the person's own club
            (reason,) = item.reasons
            assert reason.kind == "history"
            assert 0 < reason.share <= 1
            named = reason.text.removeprefix("because you clicked on *Title ").removesuffix("*")
            assert named in history
    alike = pipeline.similar("c1-0", 7)
    assert {item.item_id.partition("-")[0] for item in alike.items} == {"c1"}


@pytest.mark.parametrize("rules", [Rules(), Rules(blocked=("c1-0", "c1-3", "c2-5"))])
def test_the_lists_of_a_release_are_what_the_model_says(tmp_path: Path, rules: Rules) -> None:
    data = clubs()
    training = TrainingData(data)
    cls = model_type("item_neighbours")
    named = Named("item_neighbours", cls.fit(training, cls.preset(training), FitContext()))
    write_release(tmp_path, "r", snapshot=data, primary=named, popularity=named)
    listed = Pipeline(Release.open(tmp_path / "r"), rules=rules)
    asked = Release.open(tmp_path / "r")
    asked.__dict__["similar"] = None  # as in a release that had no time for lists
    bare = Pipeline(asked, rules=rules)
    tiers = set()
    for item_id in data.items.to_list():
        for k in (1, 7, LISTED + 5):
            found, expected = listed.similar(item_id, k), bare.similar(item_id, k)
            assert [i.item_id for i in found.items] == [i.item_id for i in expected.items]
            assert [i.score for i in found.items] == pytest.approx(
                [i.score for i in expected.items], rel=1e-5
            )
            assert item_id not in [i.item_id for i in found.items]
            tiers.add((found.tier, expected.tier))
    assert tiers == {("cache", "model")}


def test_lists_that_would_take_too_long_are_left_out() -> None:
    data = clubs()
    training = TrainingData(data)
    cls = model_type("ease")
    model = cls.fit(training, cls.preset(training), FitContext())
    assert Likeness(model).lists(data.item_count, budget_s=0.0) is None
    assert Likeness(model).lists(data.item_count) is not None

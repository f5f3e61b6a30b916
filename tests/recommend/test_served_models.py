"""Models of the registry through a release: what comes back from the files answers as what was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from slipstream.config import with_overrides
from slipstream.dataset.queries import queries_of
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.errors import UsageError
from slipstream.events.event import EventBatch
from slipstream.events.sqlite import SqliteEventStore
from slipstream.inference.approximate_index import ApproximateIndex
from slipstream.models.recommender import ExplainsByHistory, ExplainsFromState, FitContext, TrainingData
from slipstream.models.registry import model_names, model_type
from slipstream.recommend.likeness import LISTED, Likeness
from slipstream.recommend.pipeline import Pipeline, Request, rank
from slipstream.recommend.release import Named, PipelineSettings, Release, write_release
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


def test_a_release_with_an_approximate_index_answers_by_it_and_tells_its_recall(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("faiss")
    data = clubs()
    training = TrainingData(data)
    cls, popularity = model_type("transformer"), model_type("popularity")
    shape = {"dim": 16, "heads": 2, "layers": 2, "attention_window": 6, "epochs": 0}
    primary = Named(
        "transformer", cls.fit(training, with_overrides(cls.preset(training), shape), FitContext())
    )
    counted = Named("popularity", popularity.fit(training, popularity.preset(training), FitContext()))
    for name, approximate in (("plain", False), ("quick", True)):
        write_release(
            tmp_path, name, snapshot=data, primary=primary, popularity=counted, approximate=approximate
        )
    plain, quick = Release.open(tmp_path / "plain"), Release.open(tmp_path / "quick")
    assert isinstance(quick.index, ApproximateIndex)
    assert not isinstance(plain.index, ApproximateIndex)
    assert quick.meta["approximate"] == {"recall@10": 1.0, "recall@100": 1.0}  # so few are searched exactly
    request = Request(history=["c0-1", "c0-2"], k=5)
    slates = [Pipeline(release).recommend(request) for release in (plain, quick)]
    assert slates[0].items == slates[1].items
    with pytest.raises(UsageError, match="no item vectors"):
        write_release(tmp_path, "none", snapshot=data, primary=counted, popularity=counted, approximate=True)
    assert not (tmp_path / "none").exists()


def test_history_reasons_of_a_living_state_are_those_of_the_whole_history(tmp_path: Path) -> None:
    """Event by event, also past the window's edge: the same reasons as from the history read anew."""
    pytest.importorskip("torch")
    data = clubs()
    training = TrainingData(data)
    cls = model_type("transformer")
    shape = {"dim": 16, "heads": 2, "layers": 2, "attention_window": 6, "epochs": 0}
    model = cls.fit(training, with_overrides(cls.preset(training), shape), FitContext())
    primary, popularity = Named("transformer", model), model_type("popularity")
    counted = popularity.fit(training, popularity.preset(training), FitContext())
    write_release(
        tmp_path, "r", snapshot=data, primary=primary, popularity=Named("popularity", counted),
        settings=PipelineSettings(history_per_item=20),
    )  # fmt: skip
    release = Release.open(tmp_path / "r")
    assert isinstance(release.primary, ExplainsFromState)
    random = np.random.default_rng(0)
    request = Request(user_id="ann", k=5, explain=True)
    told = 0
    with SqliteEventStore(tmp_path / "events.sqlite") as store:
        living = Pipeline(release, store, slate_cache=False, rules=Rules(repeat=True))
        for n in range(25):
            item = data.items[int(random.integers(data.item_count))]
            row = {"user_id": ["ann"], "item_id": [item], "time_us": [n * 7_000_000 * int(10 ** (n % 4))]}
            store.append(EventBatch.of(pl.DataFrame(row)))
            found = living.recommend(request).items
            expected = Pipeline(release, store, rules=Rules(repeat=True)).recommend(
                replace(request, time_us=2**60)  # as of a moment: nothing is kept, all is worked out anew
            )
            for ours, theirs in zip(found, expected.items, strict=True):
                assert [r.text for r in ours.reasons] == [r.text for r in theirs.reasons]
                shares = [r.share for r in theirs.reasons]
                assert [r.share for r in ours.reasons] == pytest.approx(shares, rel=1e-3, abs=1e-5)
                told += len(shares)
    assert told > 100

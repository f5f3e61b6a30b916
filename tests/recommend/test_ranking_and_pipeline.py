"""The one ranking, and the pipeline around it: who is recommended what, by whom, and what never appears."""

from __future__ import annotations

import math
from pathlib import Path

import film_world
import numpy as np
import pytest
from film_world import CoCounts, with_model
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.dataset.queries import Queries, queries_of
from slipstream.errors import UnknownName, UsageError
from slipstream.inference.retriever import top_k_reference
from slipstream.recommend.newcomers import AddedItems
from slipstream.recommend.pipeline import Pipeline, Request, rank
from slipstream.recommend.ranking import VectorRanking
from slipstream.recommend.release import PipelineSettings, Release
from slipstream.recommend.rules import Rules
from slipstream.recommend.slate import Slate, slate_json


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Release:
    release = film_world.release(tmp_path_factory.mktemp("releases"))
    return with_model(release, CoCounts.of(film_world.snapshot()))


def ids(slate: Slate) -> list[str]:
    return [item.item_id for item in slate.items]


class Fixed:
    """Scores that were drawn beforehand, one row per query."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    def score(self, queries: Queries) -> np.ndarray:
        return self.scores[queries.user]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rank_equals_the_slow_reference(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    queries_count, items = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 30))
    k, batch = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    repeat = data.draw(st.booleans())
    scores = rng.integers(0, 4, (queries_count, items)).astype(np.float32)  # many ties
    scores[rng.random(scores.shape) < 0.2] = np.nan
    lengths = rng.integers(0, 5, queries_count)
    queries = Queries(
        user=np.arange(queries_count, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item=rng.integers(-1, items, int(lengths.sum())).astype(np.int32),
    )
    candidates = rng.random(items) < 0.7
    found, values = rank(
        Fixed(scores),
        queries,
        k,
        repeat=repeat,
        candidates=candidates,
        batch=batch,  # type: ignore[arg-type]
    )
    excluded = np.tile(~candidates, (queries_count, 1))
    for q in range(queries_count):
        if not repeat:
            excluded[q, [i for i in queries.history(q) if i >= 0]] = True
    expected = top_k_reference(scores, k, excluded=excluded)
    assert found.shape == values.shape == (queries_count, k)
    for q, pairs in enumerate(expected):
        padded = pairs + [(-1, -np.inf)] * (k - len(pairs))
        assert list(zip(found[q].tolist(), values[q].tolist(), strict=True)) == padded


def test_what_is_served_is_what_was_ranked(opened: Release) -> None:
    data = film_world.snapshot()
    found, scores = rank(opened.primary, queries_of(data, np.arange(data.user_count)), 5)
    for user, history in enumerate(film_world.HISTORIES.values()):
        slate = Pipeline(opened).recommend(Request(history=history, k=5))
        known = found[user] >= 0
        assert ids(slate) == data.items.texts(found[user][known])
        assert [item.score for item in slate.items] == scores[user][known].tolist()
        assert slate.tier == "model"


def test_nobody_known_gets_what_is_popular_and_the_answer_says_so(opened: Release) -> None:
    for request in (Request(), Request(user_id="stranger"), Request(history=[]), Request(history=["?"])):
        slate = Pipeline(opened).recommend(request)
        assert slate.tier == "popularity"
        assert ids(slate)[:2] == ["f0", "f1"]
        assert slate.user_id == request.user_id
    explained = Pipeline(opened).recommend(Request(explain=True))
    assert explained.items[0].reasons[0].text == "popular with 4 people"
    assert explained.items[0].reasons[0].path == ()


def test_a_slate_never_holds_what_was_touched_excluded_blocked_or_not_asked_for(opened: Release) -> None:
    pipeline = Pipeline(opened, rules=Rules(blocked=("f3",)))
    assert ids(pipeline.recommend(Request(history=["f0"]))) == ["f1", "f4", "f2", "f5", "f6"]
    assert "f4" not in ids(pipeline.recommend(Request(history=["f0"], exclude=["f4", "unknown"])))
    assert ids(pipeline.recommend(Request(history=["f0"], allow=["f5", "f1", "unknown"]))) == ["f1", "f5"]
    assert ids(pipeline.recommend(Request(history=["f0"], allow=[]))) == []
    assert ids(pipeline.recommend(Request(history=["f0"], filters={"genre": ["sea", "crime"]}))) == [
        "f2",
        "f6",
    ]
    both = Request(history=["f0"], filters={"genre": ["space"], "director": ["Cameron"]})
    assert ids(pipeline.recommend(both)) == ["f5"]


def test_repeat_is_a_rule(opened: Release) -> None:
    again = Pipeline(opened, rules=Rules(repeat=True)).recommend(Request(history=["f0", "f1"]))
    assert {"f0", "f1"} <= set(ids(again))
    bought = Pipeline(opened, rules=Rules(touched_by=("purchase",)))
    assert "f0" in ids(bought.recommend(Request(history=["f0", "f1"])))  # only clicked


def test_stock_rules(opened: Release) -> None:
    needs = Pipeline(opened, rules=Rules(require={"genre": ("space",)}, forbid={"director": ("Scott",)}))
    assert ids(needs.recommend(Request(history=["f0"]))) == ["f1", "f3", "f5"]


def test_variety_caps_a_value_and_minimum_fills_up(opened: Release) -> None:
    request = Request(history=["f2"], k=6)
    capped = Pipeline(opened, rules=Rules(variety={"genre": 1})).recommend(request)
    assert ids(capped) == ["f0", "f6"]
    filled = Pipeline(opened, rules=Rules(variety={"genre": 1}, minimum=3)).recommend(request)
    assert ids(filled) == ["f0", "f1", "f6"]
    assert [i.score for i in filled.items] == sorted((i.score for i in filled.items), reverse=True)


def test_fewer_items_than_k_is_no_error_and_no_score_is_nan(opened: Release) -> None:
    slate = Pipeline(opened).recommend(Request(history=["f0"], k=500))
    assert len(slate.items) == 6  # f7 has no score, f0 was touched
    assert all(math.isfinite(item.score) for item in slate.items)


@pytest.mark.parametrize("k", [0, -1, 501])
def test_k_is_bounded(opened: Release, k: int) -> None:
    with pytest.raises(UsageError, match="between 1 and 500"):
        Pipeline(opened).recommend(Request(k=k))


def test_a_filter_on_no_attribute_names_the_known_ones(opened: Release) -> None:
    with pytest.raises(UnknownName, match="no attribute named 'genres'") as caught:
        Pipeline(opened).recommend(Request(filters={"genres": ["space"]}))
    assert caught.value.hint.startswith("known: genre")


def test_an_added_item_is_recommended_at_once(opened: Release, tmp_path: Path) -> None:
    added = AddedItems(tmp_path)
    pipeline = Pipeline(opened, added=added)
    before = pipeline.recommend(Request(history=["f0"], k=3))
    added.append([{"item_id": "n1", "title": "Newer Hope", "genre": ["space"], "director": "Lucas"}])
    after = pipeline.recommend(Request(history=["f0"], k=3, explain=True))
    assert ids(before) == ["f1", "f4", "f2"]
    assert ids(after) == ["f1", "f4", "n1"]  # the last place is kept for new items
    assert after.tier == "model"
    assert after.items[-1].title == "Newer Hope"
    assert after.items[-1].reasons[0].text == "because you clicked on *Star*, which also has space, Lucas"
    assert ids(pipeline.recommend(Request(history=["f0"], allow=["n1"]))) == ["n1"]
    assert ids(pipeline.recommend(Request(history=["f0", "n1"], allow=["n1"]))) == []
    assert "n1" in ids(pipeline.recommend(Request(k=4)))  # for strangers too
    no_slots = Pipeline(opened, added=added, rules=Rules(new_item_slots=0))
    assert ids(no_slots.recommend(Request(history=["f0"], k=3))) == ids(before)
    assert ids(pipeline.recommend(Request(history=["f0"], k=1))) == ["f1"]  # never a slate of new items only


def test_similar_items(opened: Release, tmp_path: Path) -> None:
    added = AddedItems(tmp_path)
    added.append([{"item_id": "n1", "director": "Spielberg", "genre": ["family"]}])
    pipeline = Pipeline(opened, added=added)
    assert ids(pipeline.similar("f0", 2))[0] == "f1"
    assert "f0" not in ids(pipeline.similar("f0", 500))
    assert ids(pipeline.similar("n1", 3))[0] == "f3"  # by attributes: it has no scores yet
    assert ids(pipeline.similar("f7", 1)) in (["n1"], ["f3"])  # nobody took it
    with pytest.raises(UnknownName, match="no item named 'nothing'"):
        pipeline.similar("nothing", 3)


def test_the_json_of_a_slate_is_the_contract(opened: Release) -> None:
    slate = slate_json(Pipeline(opened).recommend(Request(history=["f0"], k=2, explain=True)))
    assert set(slate) == {"request_id", "user_id", "items", "tier", "release", "release_age_s"}
    assert slate["user_id"] is None
    assert slate["release"] == "r1"
    assert slate["release_age_s"] >= 0
    assert set(slate["items"][0]) == {"item_id", "title", "score", "reasons"}
    reason = slate["items"][0]["reasons"][0]
    assert set(reason) == {"kind", "text", "share", "path"}
    assert set(reason["path"][0]) == {"head", "relation", "tail", "weight"}
    plain = slate_json(Pipeline(opened).recommend(Request(history=["f0"], k=2)))
    assert all(item["reasons"] == [] for item in plain["items"])


def test_settings_bound_the_reasons(tmp_path: Path) -> None:
    quiet = PipelineSettings(paths_per_item=0, history_per_item=0)
    release = with_model(film_world.release(tmp_path, settings=quiet), CoCounts.of(film_world.snapshot()))
    slate = Pipeline(release).recommend(Request(history=["f0"], explain=True))
    assert all(item.reasons == () for item in slate.items)


def test_ranking_from_states_is_the_ranking() -> None:
    """Of a model with a bias, silent items and people of whom it knows nothing."""
    draw = np.random.default_rng(4)
    users, items, dim = 300, 50, 8
    lengths = draw.integers(0, 6, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    queries = Queries(
        np.arange(users, dtype=np.int32), offsets, draw.integers(0, items, offsets[-1], np.int32)
    )

    class Vectors:
        table, people = draw.normal(size=(items, dim)), draw.normal(size=(users, dim))

        def item_vectors(self) -> np.ndarray:
            return self.table.astype(np.float32)

        def item_bias(self) -> np.ndarray:
            return np.linspace(0, 1, items, dtype=np.float32)

        def query_vectors(self, queries: Queries) -> np.ndarray:
            vectors = self.people[queries.user].astype(np.float32)
            vectors[np.diff(queries.offsets) == 0] = np.nan
            return vectors

        def score(self, queries: Queries) -> np.ndarray:
            scores = self.query_vectors(queries) @ self.item_vectors().T + self.item_bias()
            scores[:, [3, 7]] = np.nan
            return scores

    model, allowed = Vectors(), draw.random((users, items)) < 0.8
    expected = rank(model, queries, 12, repeat=True, candidates=allowed)  # type: ignore[arg-type]
    found = VectorRanking(model).rank(model.query_vectors(queries), queries, 12, allowed)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    assert (found[0][lengths == 0] == -1).all()

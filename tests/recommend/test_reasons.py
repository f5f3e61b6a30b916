"""Reasons are true: their paths are walked, their shares add up, and where nothing carries there is none."""

from __future__ import annotations

from pathlib import Path

import film_world
import numpy as np
import pytest
from film_world import CoCounts, with_model
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.models.recommender import ANY_EVENT, SOMEONE, Hop
from slipstream.recommend.live_users import LiveUsers, UserState
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.reasons import Reasons
from slipstream.recommend.release import PipelineSettings, Release
from slipstream.recommend.slate import Reason
from slipstream.recommend.wording import Wording

TITLES = {"f0": "Star", "f1": "Empire", "f2": "Jaws"}


def words(language: str = "en", **verbs: str) -> Wording:
    labels = {"http://x/Q42": "George Lucas"}
    return Wording(language, verbs, TITLES.get, labels)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Release:
    release = film_world.release(tmp_path_factory.mktemp("releases"))
    return with_model(release, CoCounts.of(film_world.snapshot()))


def hops(*steps: tuple[str, str, str]) -> list[Hop]:
    return [Hop(*step, 1.0) for step in steps]


def test_a_path_through_a_person_is_a_sentence() -> None:
    path = hops(
        ("u", "watch", "f0"),
        ("f0", "director", "director:George Lucas"),
        ("director:George Lucas", "is_director_of", "f1"),
    )
    expected = "because you watched *Star*, directed by George Lucas, who also directed this"
    assert words().path(path) == expected
    assert words("zh").path(path) == "因为你看过《Star》，由George Lucas执导，George Lucas也执导了这一项"


def test_a_reason_names_the_other_items_that_lead_the_same_way() -> None:
    path = hops(("u", "watch", "f0"), ("f0", "next", "f3"))
    expected = "because you watched *Star*, *Empire* and *Jaws*, often followed by this"
    assert words().path(path, ["f1", "f2"]) == expected
    assert words("zh").path(path, ["f1"]) == "因为你看过《Star》和《Empire》，之后人们常选这一项"


def test_items_are_named_together_only_if_the_same_was_done_with_them(opened: Release) -> None:
    state = UserState("u", -1, ("f0", "f1", "f2"), np.array([0, 1, 2], np.int32), ("watch", "watch", "buy"))
    shelf = opened.shelf
    (reasons,) = opened.reasons(shelf).of([shelf.number("f3")], state, shelf, "model")
    assert reasons[0].text == "because you watched *Star* and *Empire*, chosen by the same people as this"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            [("u", "rate", "f0"), ("f0", "similar_to", "f1")],
            "because you rated *Star*, chosen by the same people as this",
        ),
        (
            [("u", "buy", "f0"), ("f0", "next", "f1")],
            "because you bought *Star*, often followed by this",
        ),
        (
            [
                ("u", "purchase", "f0"),
                ("f0", "shelfMark", "shelfMark:A7"),
                ("shelfMark:A7", "is_shelfMark_of", "f1"),
            ],
            "because you bought *Star*, whose shelf mark is A7, like this",
        ),
        (
            [
                ("u", "watch", "f0"),
                ("f0", "dbo:genres", "Space opera"),
                ("Space opera", "is_dbo:genres_of", "f1"),
            ],
            "because you watched *Star*, of the genre Space opera, like this",
        ),
        (
            [
                ("u", "watch", "f0"),
                ("f0", "director", "http://x/Q42"),
                ("http://x/Q42", "is_director_of", "f2"),
                ("f2", "similar_to", "f1"),
            ],
            "because you watched *Star*, directed by George Lucas, who also directed *Jaws*, "
            "chosen by the same people as this",
        ),
        (
            [("u", "watch", "f0"), ("f0", "is_watch_of", "v"), ("v", "watch", "f1")],
            "because you watched *Star*, which others watched too, who also watched this",
        ),
        (
            [("u", "age", "age:25-34"), ("age:25-34", "is_age_of", "v"), ("v", "watch", "f1")],
            "because your age is 25-34, like others, who also watched this",
        ),
        (
            [("u", "fnord", "f0"), ("f0", "similar_to", "f1")],
            "because you acted on *Star*, chosen by the same people as this",
        ),
        (
            [("u", "watch", "f0"), ("f0", "cast", "{t} {h} {0}"), ("{t} {h} {0}", "is_cast_of", "f1")],
            "because you watched *Star*, with {t} {h} {0}, who is also in this",
        ),
    ],
)
def test_every_kind_of_hop_has_words(steps: list[tuple[str, str, str]], expected: str) -> None:
    assert words().path(hops(*steps)) == expected
    assert words("zh").path(hops(*steps)).startswith("因为你")


@pytest.mark.parametrize(
    ("relation", "english", "chinese"),
    [
        ("friend", "a friend of yours", "你的一位朋友"),
        ("trusts", "someone you trust", "你信任的人"),
        ("is_trusts_of", "someone you are connected to", "与你有联系的人"),
        ("colleague", "someone you are connected to", "与你有联系的人"),
    ],
)
def test_somebody_else_is_told_of_but_not_named(relation: str, english: str, chinese: str) -> None:
    path = hops(("u", relation, SOMEONE), (SOMEONE, "watch", "f1"))
    assert words().path(path) == f"because {english} watched this"
    assert words("zh").path(path) == f"因为{chinese}看过这一项"
    touched = hops(("u", relation, SOMEONE), (SOMEONE, ANY_EVENT, "f2"), ("f2", "next", "f1"))
    assert words().path(touched) == f"because {english} acted on *Jaws*, often followed by this"


def test_a_home_may_choose_its_verbs() -> None:
    assert words(rating="watched").history("f0", "rating") == "because you watched *Star*"
    assert words("zh", rating="看过").history("f0", "rating") == "因为你看过《Star》"
    assert words().popularity(1) == "popular with 1 person"
    assert words("zh").popularity(1200) == "受到1200人欢迎"


def test_path_reasons_are_walks_of_the_data(opened: Release) -> None:
    data = film_world.snapshot()
    together = (data.matrix().T @ data.matrix()).toarray()
    for history in film_world.HISTORIES.values():
        slate = Pipeline(opened).recommend(Request(history=history, k=8, explain=True))
        for item in slate.items:
            paths = [r for r in item.reasons if r.kind == "path"]
            if item.score > 0:
                assert paths
            for reason in paths:
                first, last = reason.path
                assert first.head == "anybody"
                assert first.relation == "click"  # the kind of the event, not the model's word
                assert first.tail == last.head
                assert first.tail in history
                assert last.tail == item.item_id
                weight = together[data.items.number(last.head), data.items.number(last.tail)]
                assert last.weight == weight > 0
                assert reason.share == 1.0  # all paths to an item are one group here


def history_reasons(opened: Release, history: list[str], item: str) -> tuple[Reason, ...]:
    user = LiveUsers(None, opened.items, opened.users, opened.user_events).given(None, history)
    shelf = opened.shelf
    (reasons,) = opened.reasons(shelf).of([shelf.number(item)], user, shelf, "model", paths=0)
    return reasons


def test_where_a_path_exists_it_is_the_reason_and_no_other(opened: Release) -> None:
    slate = Pipeline(opened).recommend(Request(history=["f0", "f1"], k=8, explain=True))
    assert {r.kind for item in slate.items for r in item.reasons} == {"path"}


def test_history_shares_are_parts_of_the_whole(opened: Release) -> None:
    history = history_reasons(opened, ["f0", "f1", "f6"], "f4")
    assert len(history) == 1
    assert history[0].kind == "history"
    assert history[0].path == ()
    assert history[0].share == pytest.approx(2 / 3)  # f4: with f0 twice, with f1 once, with f6 never
    assert history[0].text == "because you clicked on *Star*"


def test_a_repeated_history_item_carries_the_sum_of_its_events(opened: Release) -> None:
    history = history_reasons(opened, ["f1", "f0", "f1", "f1"], "f4")
    assert history[0].text == "because you clicked on *Empire*"
    assert history[0].share == pytest.approx(3 / 5)


def test_where_nothing_carries_there_is_no_reason(opened: Release) -> None:
    slate = Pipeline(opened).recommend(Request(history=["f6"], k=8, explain=True))
    assert slate.tier == "model"
    assert all(item.reasons == () for item in slate.items)  # eve's film was taken by nobody else


def test_a_model_that_cannot_explain_gives_no_reasons(tmp_path: Path) -> None:
    class Silent:
        score = CoCounts.of(film_world.snapshot()).score

    release = film_world.with_model(film_world.release(tmp_path), Silent())
    slate = Pipeline(release).recommend(Request(history=["f0"], explain=True))
    assert slate.tier == "model"
    assert slate.items
    assert all(item.reasons == () for item in slate.items)


def test_contributions_that_are_not_numbers_carry_nothing(tmp_path: Path) -> None:
    class Broken(CoCounts):
        def contributions(self, query: object, items: np.ndarray) -> np.ndarray:
            return np.full((len(items), 1), np.nan, np.float32)

        def path_groups(self, query: object, items: object, limit: int) -> list[list[object]]:  # type: ignore[override]
            return [[] for _ in items]  # type: ignore[attr-defined]

    model = Broken(**vars(CoCounts.of(film_world.snapshot())))
    release = with_model(film_world.release(tmp_path), model)
    slate = Pipeline(release).recommend(Request(history=["f0"], explain=True))
    assert all(item.reasons == () for item in slate.items)


parts_of_a_score = st.sampled_from([0.0, -1.0, 0.004, 0.5, 1.0, 3.0, float("nan"), float("inf")])


@settings(max_examples=60)
@given(
    history=st.lists(st.sampled_from(["f0", "f1", "f2", "gone"]), min_size=1, max_size=6),
    rows=st.lists(st.lists(parts_of_a_score, min_size=6, max_size=6), min_size=1, max_size=3),
    limit=st.integers(0, 4),
)
def test_the_reasons_of_a_slate_are_those_of_each_item_counted_by_hand(
    history: list[str], rows: list[list[float]], limit: int
) -> None:
    known = [item for item in history if item != "gone"]
    carried = np.array(rows, np.float32)[:, : len(known)]
    kinds = tuple("buy" if n % 2 else "watch" for n in range(len(history)))
    numbers = np.array([-1 if item == "gone" else int(item[1:]) for item in history], np.int32)
    user = UserState("u", -1, tuple(history), numbers, kinds)
    reasons_of = Reasons(None, None, np.zeros(3, np.int32), words())._history
    found = reasons_of(np.arange(len(known)), carried, user, limit)
    some = np.flatnonzero(carried.any(axis=0))  # what carries nothing need not be there
    assert reasons_of(some, carried[:, some], user, limit) == found
    long = np.zeros((len(rows), 100), np.float32)
    long[:, : len(known)] = carried
    assert reasons_of(np.arange(100), long, user, limit) == found
    latest = dict(zip(history, kinds, strict=True))
    carries = ((carried > 0) & np.isfinite(carried)).any(axis=0)
    carrying = [item for item, some in zip(known, carries, strict=True) if some]
    for parts, reasons in zip(carried.tolist(), found, strict=True):
        by_item = dict.fromkeys(carrying, 0.0)  # equals stay in this order
        for item, part in zip(known, parts, strict=True):
            if 0 < part < float("inf"):
                by_item[item] += part
        total = sum(by_item.values())
        best = sorted(by_item.items(), key=lambda pair: -pair[1])[:limit]
        expected = [
            (words().history(item, latest[item]), pytest.approx(part / total))
            for item, part in best
            if 0 < part >= 0.01 * total
        ]
        assert [(reason.text, reason.share) for reason in reasons] == expected


def test_chinese_is_a_setting(tmp_path: Path) -> None:
    release = with_model(
        film_world.release(tmp_path, settings=PipelineSettings(language="zh")),
        CoCounts.of(film_world.snapshot()),
    )
    slate = Pipeline(release).recommend(Request(history=["f0"], k=1, explain=True))
    assert slate.items[0].reasons[0].text == "因为你点过《Star》，选它的人也选这一项"

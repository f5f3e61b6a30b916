"""A release that did not serve, valued from the log: asked again as of each answer, with the truth known."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import cycle_world
import numpy as np
import polars as pl
import pytest
from cycle_world import CLUBS, PEOPLE, START_S, STEP_S

import slipstream
from slipstream.cli import main
from slipstream.errors import NotThere
from slipstream.evaluation.chances import PolicyInLog
from slipstream.events.event import EventBatch
from slipstream.events.impressions import person_of
from slipstream.events.sqlite_impressions import Feedback, Served, SqliteImpressionStore
from slipstream.loop.reporting import LoggedHome, read_log
from slipstream.loop.workspace import Workspace
from slipstream.recommend.exploration import Explore, explored
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import Release

ANSWERS = 700
FIRST_US = (START_S + 20 * STEP_S) * 1_000_000
ARM = "shop/chance"


def taste(person: int, item: str) -> float:
    return 0.7 if int(item[1:]) % CLUBS == person % CLUBS else 0.02


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`first` (popularity) answered with an explored place; `second` (neighbours) knows the same past.

    The clock of those who report clicks is .3 s behind the server's.
    """
    space = cycle_world.home(tmp_path_factory.mktemp("replay") / "home")
    space.train("item_neighbours")
    space.release("item_neighbours", name="second", promote=False)
    draw, served, told = np.random.default_rng(1), [], []
    with space.store() as store:
        pipeline = Pipeline(Release.open(space.home.releases / "first"), store, home=space.home)
        for n in range(ANSWERS):
            person, moment = int(draw.integers(PEOPLE + 20)), FIRST_US + n * 60_000_000  # some are new
            user, request = f"p{person}", f"q{n}"
            asked = Request(user_id=user, k=4, request_id=request)
            slate, drawn = explored(pipeline, asked, Explore(share=0.9, pool=5))
            items, who = [item.item_id for item in slate.items], person_of(user)
            about = "first", ARM, slate.tier, items, [1.0] * 4, drawn.propensities, drawn.pool
            served.append(Served(request, who, moment, *about))
            clicked = [item for item in items if draw.random() < taste(person, item)]
            clicks = [
                Feedback(f"{n}-{i}", who, moment - 300_000, request, i, "click", None, "") for i in clicked
            ]
            told += clicks
            if clicks:
                rows = [(c.event_id, user, c.item_id, c.kind, c.time_us) for c in clicks]
                columns = ["event_id", "user_id", "item_id", "kind", "time_us"]
                store.append(EventBatch.of(pl.DataFrame(rows, schema=columns, orient="row")))
    with SqliteImpressionStore(space.home.impressions) as impressions:
        impressions.append(served, told, now_us=time.time_ns() // 1000)
    return space.home.root


@pytest.fixture
def space(made: Path, tmp_path: Path) -> Workspace:
    return slipstream.open(shutil.copytree(made, tmp_path / "home"))


@pytest.fixture(scope="module")
def log(made: Path) -> LoggedHome:
    return read_log(slipstream.open(made).home, releases=["first", "second"])


@pytest.fixture(scope="module")
def valued(log: LoggedHome) -> dict[str, PolicyInLog]:
    return {line.policy: line for line in log.policies}


def test_the_release_that_served_would_have_shown_what_it_had_on_top(
    log: LoggedHome, valued: dict[str, PolicyInLog]
) -> None:
    """Also where the item was clicked, and would not be shown again today."""
    first, _ = log.replayed
    assert log.choices.filter(pl.col("reward") > 0).height > 50
    wanted = dict(zip(log.choices["request_id"], log.choices["pool"].list.first(), strict=True))
    assert first.own == first.pool == wanted
    assert len(wanted) == ANSWERS
    assert valued["first"].value == valued["own"].value
    over = valued["first"].over_own
    assert over is not None
    assert (over.value, over.variance) == (0, 0)


def test_a_release_that_never_served_gets_its_true_worth(
    log: LoggedHome, valued: dict[str, PolicyInLog]
) -> None:
    _, second = log.replayed
    person_at = {person_of(f"p{n}"): n for n in range(PEOPLE + 20)}
    people = [person_at[person] for person in log.choices["person"]]
    picks = [second.pool[request] for request in log.choices["request_id"]]
    own = log.choices["pool"].list.first().to_list()
    worth = np.array([taste(*pair) for pair in zip(people, picks, strict=True)])
    owns = np.array([taste(*pair) for pair in zip(people, own, strict=True)])
    line = valued["second, of the pool"]
    for estimate in (line.value.ips, line.value.snips, line.value.doubly_robust):
        assert estimate is not None
        seen = estimate.interval(0.999)
        assert seen.low <= worth.mean() <= seen.high
        assert seen.high - seen.low < 0.4
    assert line.value.warnings == ()
    assert line.over_own is not None
    better = line.over_own.interval(0.999)
    assert 0 < better.low <= (worth - owns).mean() <= better.high  # neighbours know the clubs


def test_what_was_never_tried_is_told(log: LoggedHome, valued: dict[str, PolicyInLog]) -> None:
    _, second = log.replayed
    pools = dict(zip(log.choices["request_id"], log.choices["pool"].to_list(), strict=True))
    outside = np.mean([item not in pools[request] for request, item in second.own.items()])
    assert 0.1 < outside < 0.9
    doubts = valued["second"].value.warnings
    assert any(f"{outside:.1%} of what the new policy does was never tried" in doubt for doubt in doubts)


def test_places_of_a_time_that_a_release_learned_from_are_left_out(
    space: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    space.prepare()
    space.train("popularity")
    space.release("popularity", name="third", promote=False)
    where = ["--home", str(space.home.root)]
    assert main(["report", "--replay", "second", "--replay", "third", "--json", *where]) == 0
    told = json.loads(capsys.readouterr().out)
    with SqliteImpressionStore(space.home.impressions) as store:
        served, clicks = store.served(), store.feedback()
    later = served.filter(pl.col("time_us") > clicks["time_us"].max()).height
    assert told["replayed"] == [
        {"release": "second", "asked": ANSWERS, "learned_from": 0, "timeless": 0},
        {"release": "third", "asked": later, "learned_from": ANSWERS - later, "timeless": 0},
    ]
    lines = {line["policy"]: line for line in told["policies"] if line["arm"] == ARM}
    assert lines["second, of the pool"]["choices"] == ANSWERS
    assert lines["second, of the pool"]["over_own"]["interval"][0] > 0
    assert main(["report", "--replay", "third", *where]) == 0
    assert "that it learned from" in capsys.readouterr().out
    assert main(["report", "--replay", "../first", *where]) == 2
    with pytest.raises(NotThere, match="nobody"):
        _ = read_log(space.home, releases=["nobody"]).policies


def test_people_with_events_without_times_are_not_asked_about(space: Workspace) -> None:
    space.ingest(pl.DataFrame({"user_id": ["p0"], "item_id": ["m1"]}))
    (asked,) = read_log(space.home, releases=["first"]).replayed
    of_them = person_of("p0")
    with SqliteImpressionStore(space.home.impressions) as store:
        places = store.served().filter(pl.col("person") == of_them).height
    assert asked.timeless == places > 0
    assert len(asked.own) == ANSWERS - places


def test_a_log_without_chance_says_that_it_cannot_tell(tmp_path: Path) -> None:
    space = slipstream.open(tmp_path / "home")
    space.ingest(cycle_world.events(0, 2))
    space.prepare()
    space.train("popularity")
    space.release("popularity", name="first")
    cycle_world.answers(space, "first", FIRST_US, 0.5, count=5)
    log = read_log(space.home, releases=["first"])
    assert log.policies == []
    assert "no place was explored" in log.replayed[0].line()

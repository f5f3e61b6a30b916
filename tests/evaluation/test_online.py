"""What answers earned: hand-worked worlds, the offline code on the lists as shown, users as the unit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from slipstream.config import Home
from slipstream.dataset.snapshot import snapshot_of
from slipstream.errors import NotThere, UsageError
from slipstream.evaluation.online import measure, online_table
from slipstream.evaluation.tables import plain_rows
from slipstream.events.impressions import (
    DAY_US,
    FEEDBACK_SCHEMA,
    NOBODY,
    SERVED_SCHEMA,
    Attributed,
    attribute,
    person_of,
)
from slipstream.events.sqlite_impressions import Feedback, Served, SqliteImpressionStore
from slipstream.loop.reporting import report_online

NOW = 20_000 * DAY_US


def shown(request: str, user: str | None, items: str, release: str = "r1", *, day: int = 0) -> Served:
    at, scores = NOW + day * DAY_US, [0.0] * len(items)
    return Served(request, person_of(user), at, release, "", "model", list(items), scores)


def did(request: str, user: str, item: str, kind: str = "click", value: float | None = None) -> Feedback:
    name = f"{request} {user} {item} {kind}"
    return Feedback(name, person_of(user), NOW + 1, request, item, kind, value, "")


def frames(served: list[Served], feedback: list[Feedback]) -> tuple[pl.DataFrame, Attributed]:
    made = [
        pl.DataFrame([{name: getattr(row, name) for name in schema} for row in rows], schema=schema)
        for rows, schema in ((served, SERVED_SCHEMA), (feedback, FEEDBACK_SCHEMA))
    ]
    return made[0], attribute(made[0], made[1], DAY_US)


SERVED = [
    shown("q1", "ann", "abcd"),
    shown("q2", "ann", "abcd"),
    shown("q3", "bob", "ab", day=1),
    shown("q4", None, "abc"),
    shown("q5", "cid", "dcba", "r2"),
]
FEEDBACK = [
    did("q1", "ann", "b"),
    did("q1", "ann", "b", "purchase", 12.0),
    did("q1", "ann", "d"),
    did("q5", "cid", "d", "purchase"),
]


def test_a_hand_worked_world() -> None:
    first, second = measure(*frames(SERVED, FEEDBACK), k=3)
    assert (first.group, first.answers, first.people) == ("r1", 4, 3)
    value = {name: estimate.value for name, estimate in first.estimates.items()}
    assert value["CTR"] == pytest.approx(2 / 13)
    assert value["Conversion"] == pytest.approx(1 / 4)
    assert value["Revenue/1000"] == pytest.approx(12_000 / 4)
    # one answer has targets: b at place 2 is hit, d at place 4 is beyond the cut
    assert value["NDCG@3"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert value["Precision@3"] == pytest.approx(1 / 3)
    assert value["Recall@3"] == pytest.approx(1 / 2)
    assert value["MRR@3"] == pytest.approx(1 / 2)
    assert first.whole["Coverage@3"] == pytest.approx(3 / 4)
    assert second.estimates["Conversion"].value == 1
    assert second.estimates["Revenue/1000"].value == 0  # a purchase without a value


def test_groups_are_releases_arms_tiers_or_days() -> None:
    world = frames(SERVED, FEEDBACK)
    assert [(e.group, e.answers) for e in measure(*world, by="day")] == [("2024-10-04", 4), ("2024-10-05", 1)]
    assert [e.group for e in measure(*world, by="tier")] == ["model"]
    assert plain_rows(online_table(measure(*world, by="arm"), "arm"))[0][0] == "–"
    with pytest.raises(UsageError, match="not by 'moon'"):
        measure(*world, by="moon")


def test_the_person_is_the_unit_and_somebody_unknown_a_person_each() -> None:
    random = np.random.default_rng(1)
    served, feedback = [], []
    for user in range(60):
        like = random.random() < 0.5  # some always click, some never: the rows of a person are alike
        for n in range(10):
            served.append(shown(f"q{user}-{n}", f"u{user}", "ab"))
            feedback += [did(f"q{user}-{n}", f"u{user}", "a")] if like else []
    (got,) = measure(*frames(served, feedback))
    ctr = got.estimates["CTR"]
    assert ctr.users == got.people == 60
    half = (ctr.interval().high - ctr.interval().low) / 2
    assert half == pytest.approx(1.96 * 0.25 / math.sqrt(59), rel=0.05)
    (nobody,) = measure(*frames([shown(f"q{n}", None, "ab") for n in range(7)], []))
    assert person_of(None) == NOBODY
    assert nobody.people == 7


def test_novelty_and_coverage_are_against_the_snapshot_and_new_items_count() -> None:
    past = snapshot_of(
        pl.DataFrame({"user_id": ["u", "v", "v", "w"], "item_id": ["a", "a", "b", "c"], "kind": ["x"] * 4})
    )
    (got,) = measure(*frames([shown("q1", "ann", "abz")], []), k=3, snapshot=past)
    bits = (-math.log2(2 / 3) - 2 * math.log2(1 / 3)) / 3  # z is new: as if one person had touched it
    assert got.estimates["Novelty@3"].value == pytest.approx(bits)
    assert got.whole["Coverage@3"] == pytest.approx(3 / 4)


def test_an_empty_log_and_an_answer_without_items() -> None:
    assert measure(*frames([], [])) == []
    assert online_table([], "release").rows == ()
    (got,) = measure(*frames([shown("q1", "ann", "")], []))
    assert math.isnan(got.estimates["CTR"].value)
    assert math.isnan(got.estimates["NDCG@10"].value)


def test_a_report_of_a_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(NotThere, match="nothing was served"):
        report_online(home)
    with SqliteImpressionStore(home.impressions) as store:
        store.append(SERVED, [*FEEDBACK, did("q9", "ann", "a")], now_us=NOW)
    found = report_online(home)
    assert [e.group for e in found.earned] == ["r1", "r2"]
    assert found.lines() == ["5 events name their answer or bring a context; not counted: 1 unknown-request"]
    groups = found.json()["groups"]
    assert groups[0]["metrics"]["Conversion"] == pytest.approx(0.25)
    assert groups[1]["intervals"]["CTR"] == [None, None]  # one person
    assert report_online(home, days=1).earned == []  # these answers are long past

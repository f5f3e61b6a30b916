"""Two releases asked for the same targets, drift of the inputs, and reasons looked up hop by hop."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.evaluation.contest import contest, questions
from slipstream.evaluation.drift import input_drift, population_stability
from slipstream.models.recommender import FitContext, TrainingData
from slipstream.models.registry import model_type
from slipstream.recommend.release import Named, Release, write_release

COLUMNS = ["user_id", "item_id", "kind", "time_us"]


def frame(rows: list[tuple[str, str, str, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


PAST = frame(
    [(f"u{u}", f"i{u % 2 + 2 * n}", "view", 10 * n + u) for u in range(20) for n in range(u % 3, u % 3 + 5)]
)
LATER = frame(
    [(f"u{u}", f"i{u % 2 + 2 * ((u + n) % 7)}", "view", 1_000 + u) for n in range(3) for u in range(22)]
    + [("u3", "brand-new", "view", 2_000), ("u4", "brand-new", "view", 2_001)]
)


def release(folder: Path, name: str, model: str, data: Snapshot) -> Release:
    def fitted(kind: str) -> Named:
        cls, training = model_type(kind), TrainingData(data)
        return Named(kind, cls.fit(training, cls.preset(training), FitContext()))

    write_release(folder, name, snapshot=data, primary=fitted(model), popularity=fitted("popularity"))
    return Release.open(folder / name)


@pytest.mark.parametrize("repeat", [False, True])
def test_targets_are_what_is_new_to_people_who_are_known(repeat: bool) -> None:
    past = snapshot_of(PAST)
    asked = questions(past, LATER, repeat=repeat)
    assert asked is not None
    known = set(PAST.select("user_id", "item_id").rows())
    expected: dict[str, list[str]] = {}
    for user, item in LATER.select("user_id", "item_id").rows():
        new = repeat or (user, item) not in known
        if user in past.users and new and item not in expected.get(user, []):
            expected.setdefault(user, []).append(item)
    names = dict(enumerate(past.items.to_list()))
    found = {
        past.users[int(user)]: [names.get(int(i), "brand-new") for i in asked.targets(q)]
        for q, user in enumerate(asked.queries.user)
    }
    assert found == expected
    strangers = LATER.filter(pl.col("user_id").is_in(["u20", "u21"]))
    assert questions(past, strangers) is None


def test_a_release_against_itself_is_level_whatever_its_numbers_are(tmp_path: Path) -> None:
    """The second release numbers people and items the other way round, and lacks some of both."""
    draw = np.random.default_rng(4)  # uneven, so that no two scores are equal
    rows = [(f"u{u}", f"i{draw.zipf(1.3) % 30}", "view", n) for n, u in enumerate(draw.integers(0, 40, 700))]
    log, later = frame(rows[:600]), frame(rows[600:])
    past = snapshot_of(log)
    asked = questions(past, later)
    assert asked is not None
    fewer = log.filter((pl.col("user_id") != "u5") & (pl.col("item_id") != "i13"))
    turned = snapshot_of(
        log,
        users=past.users.of(past.users.to_list()[::-1]),
        items=past.items.of(past.items.to_list()[::-1]),
    )
    a = release(tmp_path, "a", "ease", past)
    same = contest(past, asked, a, release(tmp_path, "b", "ease", turned), k=5)
    assert same.difference is not None
    assert same.difference.mean == pytest.approx(0, abs=1e-6)
    assert same.overlap == pytest.approx(1)
    other = contest(past, asked, a, release(tmp_path, "c", "popularity", snapshot_of(fewer)), k=5)
    assert other.live is not None
    assert other.candidate.ndcg.mean != other.live.ndcg.mean
    assert other.difference is not None
    assert other.difference.mean == pytest.approx(other.candidate.ndcg.mean - other.live.ndcg.mean)
    assert other.targets_sha256 == same.targets_sha256
    assert other.candidate.without_list == other.live.without_list == 0
    assert other.live.bytes > 0 < other.live.p50_ms
    alone = contest(past, asked, a, None, k=5)
    assert (alone.live, alone.difference, alone.overlap) == (None, None, None)
    assert alone.candidate.ndcg == other.candidate.ndcg


counts = st.lists(st.integers(0, 500), min_size=2, max_size=12)


@settings(max_examples=100, deadline=None)
@given(counts, counts)
def test_population_stability_is_a_symmetric_distance(before: list[int], since: list[int]) -> None:
    size = min(len(before), len(since))
    p, q = before[:size], since[:size]
    value = population_stability(p, q)
    if not sum(p) or not sum(q):
        assert math.isnan(value)
        return
    assert value >= -1e-12
    assert value == pytest.approx(population_stability(q, p))
    assert population_stability(p, p) == pytest.approx(0)
    slow = 0.0
    for a, b in zip(p, q, strict=True):
        x, y = (a + 0.5) / (sum(p) + size / 2), (b + 0.5) / (sum(q) + size / 2)
        slow += (y - x) * math.log(y / x)
    assert value == pytest.approx(slow)


def test_drift_tells_a_flood_other_kinds_and_other_items_apart() -> None:
    draw = np.random.default_rng(0)
    people = [f"u{n}" for n in draw.integers(0, 300, 6_000)]
    rows = {"user_id": people, "item_id": [f"i{n}" for n in draw.zipf(1.4, 6_000) % 100]}
    frame = pl.DataFrame({**rows, "kind": "view", "time_us": np.arange(6_000)})
    known, later = snapshot_of(frame[:5_000]), frame[5_000:]
    quiet = input_drift(known, later, 3_999)
    assert quiet.kinds == pytest.approx(0, abs=0.01)
    assert quiet.items < 0.1
    assert quiet.one_user < 0.02
    assert quiet.new_users < 0.01
    bought = later.with_columns(pl.lit("buy").alias("kind"))
    assert input_drift(known, bought, 3_999).kinds > 0.25
    flood = later.with_columns(pl.lit("robot").alias("user_id"))
    assert input_drift(known, flood, 3_999).one_user == pytest.approx(0.5)
    assert input_drift(known, flood, 3_999).new_users == pytest.approx(0.5, abs=0.01)
    strange = later.with_columns(pl.format("new-{}", "item_id").alias("item_id"))
    assert input_drift(known, strange, 3_999).items > 0.25
    assert input_drift(known, strange, 3_999).new_items == pytest.approx(0.5, abs=0.02)

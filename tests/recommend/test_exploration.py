"""The explored place: drawn as often as its propensity says, and the log then answers for other policies."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import film_world
import numpy as np
import polars as pl
import pytest

from slipstream.errors import ConfigError
from slipstream.evaluation.counterfactual import evaluate_policy
from slipstream.evaluation.online import choices_left_to_chance
from slipstream.events.impressions import FEEDBACK_SCHEMA, HOUR_US, SERVED_SCHEMA, attribute, person_of
from slipstream.recommend.experiment import EXPERIMENT_FILE, read_experiment
from slipstream.recommend.exploration import Drawn, Explore, explored
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.rules import Rules

DRAWS = 4_000


def test_each_item_of_the_pool_is_shown_as_often_as_its_propensity_says(tmp_path: Path) -> None:
    pipeline = Pipeline(film_world.release(tmp_path))
    base = [item.item_id for item in pipeline.recommend(Request(user_id="x", k=8)).items]
    seen: Counter[str] = Counter()
    told: dict[str, float] = {}

    def shown(n: int) -> tuple[list[str], tuple[float, ...]]:
        request = Request(user_id="x", k=4, request_id=f"q{n}")
        slate, drawn = explored(pipeline, request, Explore(share=0.4, pool=4))
        assert slate.request_id == f"q{n}"
        assert drawn.pool == tuple(base[3:7])
        return [item.item_id for item in slate.items], drawn.propensities

    for n in range(DRAWS):
        (*certain, last), chances = shown(n)
        assert certain == base[:3]
        assert chances[:3] == (1.0, 1.0, 1.0)
        seen[last] += 1
        assert told.setdefault(last, chances[3]) == chances[3]
    assert told == pytest.approx({base[3]: 0.7, base[4]: 0.1, base[5]: 0.1, base[6]: 0.1})
    for item, chance in told.items():
        assert seen[item] / DRAWS == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / DRAWS))
    assert shown(7) == shown(7)


def test_an_explored_item_has_its_reasons_and_short_slates_stay_certain(tmp_path: Path) -> None:
    pipeline = Pipeline(film_world.release(tmp_path))
    for n in range(20):
        asked = Request(user_id="x", k=3, request_id=f"q{n}", explain=True)
        slate, drawn = explored(pipeline, asked, Explore(share=1, pool=3))
        chances = drawn.propensities
        assert len(slate.items) == len(chances) == 3
        assert all(item.reasons for item in slate.items)
        assert chances[2] == pytest.approx(1 / 3)
    few = Request(user_id="x", k=4, allow=["f1", "f2"], explain=True)
    slate, drawn = explored(pipeline, few, Explore(share=1, pool=3))
    assert (len(slate.items), drawn) == (2, Drawn((1.0, 1.0)))


def test_the_log_of_the_place_tells_what_another_policy_would_have_earned(tmp_path: Path) -> None:
    """People take item f<n> with probability (n + 1) / 20; the truth of every policy is known."""
    pipeline, draw = Pipeline(film_world.release(tmp_path)), np.random.default_rng(1)
    taste = {f"f{n}": (n + 1) / 20 for n in range(8)}
    served, clicks = [], []
    for n in range(DRAWS):
        request = Request(user_id=f"p{n}", k=4, request_id=f"q{n}")
        slate, drawn = explored(pipeline, request, Explore(share=0.5, pool=4))
        chances, pool = list(drawn.propensities), list(drawn.pool)
        items, person = [item.item_id for item in slate.items], person_of(f"p{n}")
        served.append((f"q{n}", person, n, "r1", "e/a", "model", items, [1.0] * 4, chances, pool, ""))
        clicks += [
            (f"e{n}-{item}", person, f"q{n}", item, "click", None, n + 1, "")
            for item in items
            if draw.random() < taste[item]
        ]
    frame = pl.DataFrame(served, schema=SERVED_SCHEMA, orient="row")
    feedback = pl.DataFrame(clicks, schema=FEEDBACK_SCHEMA, orient="row")
    rows = choices_left_to_chance(frame, attribute(frame, feedback, HOUR_US))
    assert rows.height == DRAWS
    assert set(rows["place"]) == {3}
    pool = sorted(set(rows["item_id"]))
    assert len(pool) == 4
    for item in pool:
        always = (rows["item_id"] == item).cast(pl.Float64)
        found = evaluate_policy(rows["reward"], rows["propensity"], always, users=rows["person"].to_numpy())
        interval = found.ips.interval(0.999)
        assert interval.low <= taste[item] <= interval.high
        assert interval.high - interval.low < 0.3
        assert found.warnings == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"name": "n", "arms": {}}, "arms"),
        ({"name": "n", "arms": {"a": {"wait": 1}}}, "arms.a.wait"),
        ({"name": "n", "arms": {"a": {"weight": 0}}}, "arms.a.weight"),
        ({"name": "n", "arms": {"a": {"rules": {"repat": True}}}}, "arms.a.rules"),
        ({"name": "n", "arms": {"a": {"explore": {"share": 2}}}}, "arms.a.explore.share"),
        ({"name": "n", "arms": {"a": {"explore": {"share": 1}, "interleave": "r"}}}, "not both"),
        ([1], "experiment"),
        (None, "not JSON"),
    ],
)
def test_a_wrong_experiment_is_refused_by_the_key(tmp_path: Path, content: object, said: str) -> None:
    assert read_experiment(tmp_path) is None
    (tmp_path / EXPERIMENT_FILE).write_text("{" if content is None else json.dumps(content))
    with pytest.raises(ConfigError, match=said):
        read_experiment(tmp_path)


def test_the_rules_of_an_arm_stand_over_the_homes(tmp_path: Path) -> None:
    text = '{"name": "n", "arms": {"a": {"rules": {"new_item_slots": 3}}, "b": {"release": "r2"}}}'
    (tmp_path / EXPERIMENT_FILE).write_text(text)
    running = read_experiment(tmp_path)
    assert running is not None
    assert running.arms["a"].rules_over(Rules(blocked=("x",))) == Rules(blocked=("x",), new_item_slots=3)
    assert running.releases() == {"r2"}
    assert running.split.shares() == {"a": 0.5, "b": 0.5}

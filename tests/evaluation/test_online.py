"""What answers earned: hand-worked worlds, the offline code on the lists as shown, users as the unit."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import slipstream
from slipstream.cli import main
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
from slipstream.loop.online_page import online_page
from slipstream.loop.reporting import read_log, report_online
from slipstream.recommend.experiment import Experiment

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


def test_dwell_freshness_and_segments() -> None:
    told = {"context": '{"dwell_s": 12}'}, {"context": '{"dwell_s": "long"}'}, {"context": '{"dwell_s": 4.5}'}
    feedback = [replace(did("q1", "ann", item), **more) for item, more in zip("abc", told, strict=True)]
    day = NOW // DAY_US
    past = snapshot_of(
        pl.DataFrame(
            {
                "user_id": ["u", "v", "v", "w"],
                "item_id": ["a", "b", "c", "a"],
                "kind": ["x"] * 4,
                "time_us": [(day - 30) * DAY_US, (day - 2) * DAY_US, (day - 8) * DAY_US, (day - 1) * DAY_US],
            }
        )
    )
    served = [shown("q1", "ann", "abcz"), shown("q2", "bob", "aa"), shown("q3", None, "b")]
    segments = {person_of("ann"): "new", person_of("bob"): "old"}
    nobody, new, old = measure(
        *frames(served, feedback), by="segment", k=4, snapshot=past, segment_of=segments
    )
    assert [e.group for e in (nobody, new, old)] == ["", "new", "old"]
    assert new.estimates["Dwell s"].value == pytest.approx(16.5 / 2)  # a word is no number of seconds
    assert math.isnan(old.estimates["Dwell s"].value)
    assert new.estimates["Fresh@4"].value == pytest.approx(2 / 4)  # b is two days old, z was never met
    assert old.estimates["Fresh@4"].value == 0
    assert nobody.estimates["Fresh@4"].value == 1


def test_feedback_late_early_twice_and_of_nobody_is_told_and_not_counted() -> None:
    """Out of order is no fault: the join does not look at the order."""
    served = [shown("q1", "ann", "ab"), shown("q2", "bob", "ab", day=40)]  # the server's clock jumped ahead
    at = {"late": NOW + DAY_US + 1, "early": NOW - 61_000_000, "slow": NOW - 59_000_000, "far": NOW + 10**16}
    feedback = [
        replace(did("q1", "ann", "b"), event_id="late", time_us=at["late"]),
        replace(did("q1", "ann", "a"), event_id="far", time_us=at["far"]),
        replace(did("q1", "ann", "b"), event_id="slow", time_us=at["slow"]),
        replace(did("q1", "ann", "b"), event_id="slow", time_us=at["slow"]),
        replace(did("q1", "ann", "a"), event_id="early", time_us=at["early"]),
        replace(did("q2", "bob", "a"), event_id="before the jump", time_us=NOW),
        did("q9", "ann", "a"),
        did("q1", "bob", "a"),
        did("q1", "ann", "z"),
        did("", "ann", "a"),
    ]
    whole = frames(served, feedback)
    assert whole[1].events["event_id"].to_list() == ["slow"]
    assert whole[1].unattributed == {
        "early": 2,
        "late": 2,
        "no-request": 1,
        "not-shown": 1,
        "other-person": 1,
        "repeated": 1,
        "unknown-request": 1,
    }
    backwards = frames(served[::-1], feedback[::-1])
    assert backwards[1].unattributed == whole[1].unattributed
    assert backwards[1].events.equals(whole[1].events)


def test_an_arm_that_was_removed_keeps_its_answers_and_the_split_is_of_those_that_are_left(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    before, after = (Experiment("e", dict.fromkeys(names, 1.0)) for names in ("abc", "ab"))
    served = [
        replace(shown(f"q{day}-{n}", f"u{n}", "xy", day=day), arm=f"e/{experiment.arm_of(f'u{n}')}")
        for day, experiment in enumerate((before, after))
        for n in range(300)
    ]
    with SqliteImpressionStore(home.impressions) as store:
        store.append(served, [], now_us=NOW)
    about = {"metric": "Conversion", "effect": 0.01, "guardrails": {"CTR": 0.05}, "arms": {"b": {}, "a": {}}}
    (tmp_path / "experiment.json").write_text(json.dumps({"name": "e", **about}))
    found = report_online(home, by="arm")
    ((arm, first, metric),) = [(line.arm, line.first, line.metric) for line in found.arms]
    assert (arm, first, metric) == ("e/a", "e/b", "Conversion")  # the first in the file is what others beat
    assert [rail.metric for rail in found.arms[0].guardrails] == ["CTR"]
    assert [e.group for e in found.earned] == ["e/a", "e/b", "e/c"]
    assert sum(e.answers for e in found.earned) == 600
    assert found.ratio is not None
    assert sum(found.ratio.seen.values()) == 300  # those who were moved count once, where they are now
    assert not found.ratio.mismatch


def test_a_page_and_tables_of_a_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    home, page = Home(tmp_path), tmp_path / "page.html"
    served = [
        replace(shown(f"q{n}", f"u{n % 40}", "abc", f"r{n % 2}", day=n // 50), arm=f"e/{n % 2}")
        for n in range(200)
    ]
    drawn = [replace(s, propensities=(1.0, 1.0, 0.5), pool=("c", "d")) for s in served[:100]]
    mixed = [replace(s, release="r0+r1", teams="aba", arm="e/both") for s in served[100:140]]
    clicks = [did(s.request_id, f"u{n % 40}", "abc"[n % 3]) for n, s in enumerate(served) if n % 4 == 0]
    clicks = [replace(c, time_us=s.time_us) for c in clicks for s in served if s.request_id == c.request_id]
    with SqliteImpressionStore(home.impressions) as store:
        store.append([*drawn, *mixed, *served[140:]], clicks, now_us=NOW)
    where = ["--home", str(tmp_path)]
    assert main(["report", "--html", str(page), "--by", "day", "--effect", "0.05", *where]) == 0
    told = capsys.readouterr().out
    assert "plan: a difference of 0.05 in CTR takes" in " ".join(told.split())
    assert "what other policies would have earned" in told
    assert "interleaved releases" in told
    text = page.read_text()
    pictures = re.findall(r'<img alt="([^"]+)" src="data:image/svg\+xml;base64,([^"]+)"', text)
    assert [alt.split(",")[0] for alt, _ in pictures][:2] == [
        "CTR by day and release",
        "Conversion by day and release",
    ]
    assert all(b"<svg" in base64.b64decode(content) for _, content in pictures)
    for heading in ("By release", "By arm", "By tier", "By segment", "By day", "Offline beside online"):
        assert f"<h2>{heading}</h2>" in text
    assert not re.search(r"<script|<link|src=\"http|url\(", text)  # it fetches nothing
    assert main(["report", "--by", "segment", "--segment", "city", *where]) == 3
    slipstream.open(tmp_path).catalogue(
        pl.DataFrame({"user_id": [f"u{n}" for n in range(40)], "city": ["Rome", "Oslo"] * 20}), of="users"
    )
    capsys.readouterr()
    assert main(["report", "--by", "segment", "--segment", "city", "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(g["segment"], g["people"]) for g in found["groups"]] == [("Oslo", 20), ("Rome", 20)]
    assert {p["policy"] for p in found["policies"]} == {"own", "popular", "even"}
    assert found["duels"][0]["lists"] == 40
    assert main(["report", "--by", "segment", "--segment", "town", *where]) == 2
    (empty := Home(tmp_path / "empty")).root.mkdir()
    with SqliteImpressionStore(empty.impressions) as store:
        store.append([], [], now_us=NOW)
    assert "No answers" in online_page(read_log(empty))

"""An experiment in a running server: who gets which arm, what the log says of it, and arms that go away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import served_home
from test_faults import eventually

from slipstream.artifacts import replace_text
from slipstream.cli import main
from slipstream.config import Home
from slipstream.events.impressions import person_of
from slipstream.events.sqlite_impressions import SqliteImpressionStore
from slipstream.recommend.experiment import EXPERIMENT_FILE, RunningExperiment
from slipstream.recommend.live_release import promote
from slipstream.recommend.rules import Rules

EVEN, ODD = ({f"f{n}" for n in range(30) if n % 2 == side} for side in (0, 1))
PEOPLE = [f"q{n}" for n in range(60)]
ARMS = {
    "control": {},
    "even": {"release": "even"},
    "odd": {"rules": {"blocked": sorted(EVEN)}},
    "both": {"interleave": "even"},
    "chance": {"weight": 2, "explore": {"share": 0.5, "pool": 5}},
}


@pytest.fixture
def home(fresh_home: Home) -> Home:
    served_home.release(fresh_home, "even", rules=Rules(blocked=tuple(sorted(ODD))), live=False)
    return fresh_home


def write(home: Home, arms: dict[str, Any], salt: str = "") -> RunningExperiment:
    content = {"name": "sides", "salt": salt, "arms": arms}
    replace_text(home.root / EXPERIMENT_FILE, json.dumps(content))
    return RunningExperiment.model_validate(content)


def ask(api: httpx.Client, user: str) -> dict[str, Any]:
    reply = api.get(f"/v1/recommendations/{user}?k=10")
    assert reply.status_code == 200
    slate: dict[str, Any] = reply.json()
    return slate


def shown(slate: dict[str, Any]) -> set[str]:
    return {item["item_id"] for item in slate["items"]}


def test_people_get_their_arm_in_every_worker_and_the_log_tells(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    running = write(home, ARMS)
    with served_home.serving(home, workers=2) as server:
        for _ in range(3):
            with httpx.Client(base_url=server.url, timeout=30) as api:  # over both workers
                for user in PEOPLE:
                    slate = ask(api, user)
                    arm = running.split.arm_of(user)
                    assert slate["release"] == {"even": "even", "both": "first+even"}.get(arm, "first")
                    if arm in ("even", "odd"):
                        assert shown(slate) <= (EVEN if arm == "even" else ODD)
                    click = {"user_id": user, "item_id": slate["items"][0]["item_id"]}
                    if arm == "odd":
                        api.post("/v1/events", json={**click, "request_id": slate["request_id"]})
                assert api.post("/v1/recommendations", json={"history": ["f1"]}).json()["release"] == "first"
        assert server.stop() == 0
    with SqliteImpressionStore(home.impressions) as store:
        served = store.served()
    label = {person_of(user): running.label(running.split.arm_of(user)) for user in PEOPLE}
    label[0] = ""  # nobody in particular
    assert served.height == 3 * (len(PEOPLE) + 1)
    assert served["arm"].to_list() == [label[person] for person in served["person"].to_list()]
    for arm, teams, items in served.select("arm", "teams", "items").rows():
        assert sorted(teams) == (["a"] * 5 + ["b"] * 5 if arm == "sides/both" else [])
        assert {item for item, team in zip(items, teams, strict=False) if team == "b"} <= EVEN
    for arm, chances in served.select("arm", "propensities").rows():
        if arm != "sides/chance":
            assert chances == []
            continue
        assert chances[:9] == [1.0] * 9
        assert chances[9] == pytest.approx(0.6) or chances[9] == pytest.approx(0.1)
    assert main(["report", "--by", "arm", "--json", "--home", str(home.root)]) == 0
    told = json.loads(capsys.readouterr().out)
    groups = {group["arm"]: group for group in told["groups"]}
    assert set(groups) == {"", *(running.label(arm) for arm in ARMS)}
    assert groups["sides/odd"]["metrics"]["CTR"] == pytest.approx(0.1)
    assert groups["sides/control"]["metrics"]["CTR"] == 0
    assert [(duel["arm"], duel["second"]) for duel in told["duels"]] == [("sides/both", "even")]
    odd = next(line for line in told["arms"] if line["arm"] == "sides/odd")
    assert odd["difference"]["value"] == pytest.approx(0.1)
    assert {line["arm"] for line in told["policies"]} == {"sides/chance"}
    assert sum(told["sample_ratio"]["seen"].values()) == len(PEOPLE)
    assert told["sample_ratio"]["mismatch"] is False
    assert main(["report", "--by", "arm", "--home", str(home.root)]) == 0
    out = capsys.readouterr().out
    assert "CTR of each arm minus that of sides/control" in out
    assert "people," in out


@pytest.fixture
def api(home: Home) -> Iterator[httpx.Client]:
    write(home, {"control": {}, "even": {"release": "even"}})
    with served_home.serving(home) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def test_a_running_server_follows_the_experiment_file(home: Home, api: httpx.Client) -> None:
    def releases() -> list[str]:
        return [ask(api, user)["release"] for user in PEOPLE[:20]]

    def of(running: RunningExperiment) -> list[str]:
        split = running.split
        return ["even" if split.arm_of(user) == "even" else "first" for user in PEOPLE[:20]]

    before = of(write(home, {"control": {}, "even": {"release": "even"}}))
    assert releases() == before
    after = of(write(home, {"control": {}, "even": {"release": "even"}}, salt="another"))
    assert after != before
    eventually(lambda: releases() == after)
    (home.root / EXPERIMENT_FILE).write_text('{"name": "sides"')  # refused, the former one goes on
    eventually(lambda: "slipstream_release_refused_total 1" in api.get("/metrics").text)
    assert releases() == after
    served_home.release(home, "second")  # and releases still go live
    eventually(lambda: set(releases()) == {"second", "even"})
    assert [name == "even" for name in releases()] == [name == "even" for name in after]
    write(home, {"control": {}}, salt="another")  # an arm is taken out in the middle
    eventually(lambda: set(releases()) == {"second"})
    with SqliteImpressionStore(home.impressions) as store:
        eventually(lambda: store.served()["arm"].to_list()[-20:] == ["sides/control"] * 20)
        assert "sides/even" in store.served()["arm"].to_list()  # what was logged stays
    (home.root / EXPERIMENT_FILE).unlink()
    eventually(lambda: set(releases()) == {"second"})


def test_an_arm_that_goes_away_falls_back_to_the_live_release_and_is_counted(
    home: Home, api: httpx.Client
) -> None:
    running = write(home, {"control": {}, "even": {"release": "even"}})
    (user,) = [u for u in PEOPLE if running.split.arm_of(u) == "even"][:1]
    assert ask(api, user)["release"] == "even"
    assert "slipstream_arm_fallbacks_total 0" in api.get("/metrics").text
    shutil.move(home.releases / "even", home.root / "elsewhere")
    eventually(lambda: ask(api, user)["release"] == "first")
    assert "slipstream_arm_fallbacks_total 0" not in api.get("/metrics").text
    shutil.move(home.root / "elsewhere", home.releases / "even")
    eventually(lambda: ask(api, user)["release"] == "even")
    promote(home.releases, "even")  # an arm may be what is live
    eventually(lambda: {ask(api, u)["release"] for u in PEOPLE[:20]} == {"even"})

    def logged() -> set[tuple[str, str]]:
        with SqliteImpressionStore(home.impressions) as store:
            return set(store.served().select("arm", "release").unique().rows())

    fell_back = ("sides/even (live instead)", "first")
    eventually(lambda: fell_back in logged())
    assert ("sides/even", "even") in logged()

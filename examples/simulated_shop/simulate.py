"""A shop that lives: people of known taste ask a real server over HTTP, and the loop learns from it.

    python examples/simulated_shop/simulate.py                 # 30 simulated days, some minutes
    python examples/simulated_shop/simulate.py --days 60 --people 400 --home shop-home

Every day each person asks for ten items, looks down the list with less and less patience (position bias) if
they trust it at all, and clicks by taste, which drifts; some clicks become purchases, and some things are
found by searching, without the list. New items arrive over HTTP. Every few days a cycle trains on what was
clicked and puts the candidate through the gate. An experiment keeps a part of the people on the first
release (popularity), and another part with an explored last place, so that `slipstream report --by arm` can
tell what the loop is worth.

At the end two bad releases are planted. Popularity is refused by the gate. Then everybody looks for gifts
for two days: the model that learned them is right about the last searches and passes, but in a list nobody
clicks a gift, and the watch takes it back.

The gate asks about what was found by searching. What popularity shows is nearly all that people click, so
judged by clicks on recommendations popularity is right, and the loop may not start: see LOG.md.

`--explore none` and `--explore all` leave the explored place to nobody and to everybody whom the loop
serves: two worlds, to compare how much the loop feeds on itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from world import ITEMS, World

import slipstream
from slipstream.config import Home
from slipstream.loop.cycle import run_cycle
from slipstream.loop.journal import Record
from slipstream.loop.narrator import Silent
from slipstream.loop.online_page import write_online_page
from slipstream.loop.policy import Policy
from slipstream.loop.reporting import read_log, report_online
from slipstream.recommend.experiment import read_experiment

BOUGHT = 0.2
NEW_A_DAY = 6
LAST_DAYS = 10
"""What the loop came to is measured on."""


class Shop:
    """The server, as a page of the shop sees it: JSON over one connection."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)

    def get(self, path: str) -> Any:
        return self._call("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        return self._call("POST", path, json.dumps(body))

    def _call(self, method: str, path: str, body: str | None) -> Any:
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content}")
        return content


@contextmanager
def serving(home: Home) -> Iterator[Shop]:
    command = [sys.executable, "-m", "slipstream", "serve", "--port", "0", "--home", str(home.root)]
    with (home.root / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        found = re.search(r"http://\S+", process.stdout.readline())  # type: ignore[union-attr]
        if found is None:
            raise RuntimeError((home.root / "server.log").read_text())
        yield Shop(found[0])
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


class Diary:
    """What was shown to whom, day by day: the truth beside the log."""

    def __init__(self, home: Home, people: int) -> None:
        running = read_experiment(home.root)
        assert running is not None
        self.arm = np.array([running.split.arm_of(f"p{person}") for person in range(people)])
        self.days: list[list[tuple[int, list[int], int]]] = []

    def note(self, person: int, shown: list[int], clicked: int) -> None:
        self.days[-1].append((person, shown, clicked))

    def rate(self, arms: tuple[str, ...], first: int, last: int) -> float:
        """Clicks for each item shown on days `first` to `last`, 1 being the first day."""
        rows = [row for day in self.days[first - 1 : last] for row in day if self.arm[row[0]] in arms]
        return sum(clicked for _, _, clicked in rows) / max(1, sum(len(shown) for _, shown, _ in rows))

    def loop_lines(self, world: World) -> list[str]:
        """How narrow the last days of the people whom the loop serves had become."""
        shown = np.zeros(len(world.style))
        found: list[float] = []
        for person, items, _ in (row for day in self.days[-LAST_DAYS:] for row in day):
            if self.arm[person] != "1-popular":
                np.add.at(shown, items, 1)
                likes = world.likes(person)
                found.append(float(likes[items].sum() / np.sort(likes)[-len(items) :].sum()))
        most = np.sort(shown)[::-1][: len(shown) // 10].sum() / shown.sum()
        old = [item for item in world.added if item < len(world.style) - NEW_A_DAY * LAST_DAYS]
        new = float((shown[old] > 0).mean()) if old else 0.0
        return [
            f"loop, last {LAST_DAYS} days: the most shown tenth of the items holds {most:.1%} of the places; "
            f"{new:.0%} of the items that came before were shown; "
            f"what was shown is liked {np.mean(found):.1%} as much as the best ten"
        ]


def visit(world: World, shop: Shop, diary: Diary, person: int) -> tuple[int, int]:
    """One person, one page. Returns (items shown, clicked)."""
    slate = shop.get(f"/v1/recommendations/p{person}?k=10")
    shown = [int(item["item_id"][1:]) for item in slate["items"]]
    clicked = world.looks_at(person, shown)
    events = []
    for item in clicked:
        about = {"user_id": f"p{person}", "item_id": f"i{item}", "request_id": slate["request_id"]}
        events.append({**about, "kind": "click"})
        if world.draw.random() < BOUGHT:
            events.append({**about, "kind": "purchase", "value": 20.0})
    events += [
        {"user_id": f"p{person}", "item_id": f"i{item}", "kind": "click"} for item in world.finds(person)
    ]
    if events:
        shop.post("/v1/events", {"events": events})
    diary.note(person, shown, len(clicked))
    return len(shown), len(clicked)


def a_day(world: World, shop: Shop, diary: Diary) -> None:
    diary.days.append([])
    visits = [visit(world, shop, diary, int(person)) for person in world.draw.permutation(len(world.taste))]
    shown, clicked = np.sum(visits, axis=0)
    told = f"{clicked / shown:.1%} of what was shown was clicked, trust {world.trust.mean():.2f}"
    print(f"day {len(diary.days)}: {told}", flush=True)
    shop.post("/v1/items", {"items": world.add_items(NEW_A_DAY)})
    world.a_day_passes()


def open_shop(folder: Path, world: World, explore: str) -> slipstream.Workspace:
    """Events, catalogue, and popularity live; a quarter of the people stay with it, whatever comes."""
    space = slipstream.open(folder)
    space.ingest(world.history())
    space.catalogue(pl.DataFrame([world.row(item) for item in range(ITEMS)]))
    space.prepare()
    space.train("popularity")
    space.release("popularity", name="first")
    place = {"explore": {"share": 0.3, "pool": 30}}
    arms: dict[str, Any] = {
        "1-popular": {"weight": 1, "release": "first"},
        "2-live": {"weight": 2, **(place if explore == "all" else {})},
        "3-explored": {"weight": 1, **({} if explore == "none" else place)},
    }
    (folder / "experiment.json").write_text(json.dumps({"name": "shop", "arms": arms}))
    return space


def policy(model: str, **over: Any) -> Policy:
    return Policy.model_validate(
        {
            "model": model,
            "ask_about": "unprompted",  # what was found without the list tells more of taste
            "data": {"events": 200, "users": 40},
            "ndcg": {"above": -0.01},  # as good and fresher will do
            "guardrails": {"size": 10.0},  # popularity is a list of numbers
            "drift": {"items": 2.0, "kinds": 2.0},  # recommendations change what is clicked: that is wanted
            "watch": {"minutes": 0},
            **over,
        }
    )


def cycle(space: slipstream.Workspace, rules: Policy) -> Record:
    record = run_cycle(space.home, rules, Silent())
    print(f"  cycle with {rules.model}: {record.outcome} – {record.why}", flush=True)
    return record


def after_the_feast(space: slipstream.Workspace, world: World, shop: Shop, diary: Diary) -> Record:
    """A cycle that learned the feast, while people go on coming, who want no more gifts.

    Its guardrails and drift limits are off: what is left to see the harm is the watch.
    """
    world.feast = True
    for _ in range(2):
        a_day(world, shop, diary)
    world.feast = False
    rules = policy(
        "item_neighbours",
        guardrails={"size": 10.0, "coverage": 0.0, "popularity_share": 100.0},
        drift={"items": 99.0, "kinds": 99.0, "overlap": 0.0},
        watch={"minutes": 4, "every_s": 1, "answers": 150},
    )
    done: list[Record] = []
    turn = threading.Thread(target=lambda: done.append(cycle(space, rules)))
    turn.start()
    diary.days.append([])
    while turn.is_alive():
        visit(world, shop, diary, int(world.draw.integers(len(world.taste))))
    turn.join()
    return done[0]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--days", type=int, default=30)
    options.add_argument("--people", type=int, default=200)
    options.add_argument("--every", type=int, default=3, help="days between cycles")
    options.add_argument("--explore", choices=("arm", "none", "all"), default="arm")
    options.add_argument("--home", type=Path, help="[default: a folder that is removed]")
    options.add_argument("--html", type=Path, help="write the report as a page")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        live(given, given.home or Path(folder) / "home")


def live(given: argparse.Namespace, folder: Path) -> None:
    world = World.of(given.people, given.seed)
    space = open_shop(folder, world, given.explore)
    diary = Diary(space.home, given.people)
    with serving(space.home) as shop:
        while len(diary.days) < given.days:
            a_day(world, shop, diary)
            if len(diary.days) % given.every == 0:
                cycle(space, policy("item_neighbours"))
        for line in diary.loop_lines(world):
            print(line)
        served = ("2-live", "3-explored")
        fifth = max(1, given.days // 5)
        for whose, arms in (("the loop's", served), ("popularity's", ("1-popular",))):
            early, late = diary.rate(arms, 1, fifth), diary.rate(arms, given.days - fifth + 1, given.days)
            print(
                f"{whose} people clicked {early:.1%} in the first fifth of the days, {late:.1%} in the last"
            )
        trust = [f"{arm} {world.trust[diary.arm == arm].mean():.2f}" for arm in ("1-popular", *served)]
        print("trust:", ", ".join(trust))
        print("the planted model was", cycle(space, policy("popularity")).outcome)
        print("what the feast taught was", after_the_feast(space, world, shop, diary).outcome)
    found = report_online(space.home, by="arm")
    for arm in found.earned:
        ctr, wide = arm.estimates["CTR"].interval(), arm.whole["Coverage@10"]
        print(f"{arm.group}: CTR {ctr.mean:.1%} [{ctr.low:.1%}, {ctr.high:.1%}], coverage {wide:.0%}")
    for other in found.arms:
        print(
            f"{other.arm} − {other.first}: {other.metric} {other.daily.mean:+.4f} "
            f"[{other.daily.low:+.4f}, {other.daily.high:+.4f}] at any look: {other.verdict}"
        )
    for line in found.lines():
        print(line)
    if given.html:
        write_online_page(given.html, read_log(space.home))


if __name__ == "__main__":
    main()

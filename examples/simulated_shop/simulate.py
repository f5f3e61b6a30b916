"""A shop that lives: people of known taste ask a real server over HTTP, and the loop learns from it.

    python examples/simulated_shop/simulate.py                 # a dozen simulated days, about two minutes
    python examples/simulated_shop/simulate.py --days 30 --people 400 --home shop-home

Every day each person asks for ten items, looks down the list with less and less patience (position bias), and
clicks by taste; some clicks become purchases, and some things are found by searching, without the list. New
items arrive over HTTP. Every few days a cycle trains on what was clicked and puts the candidate through the
gate. An experiment keeps a part of the people on the first release (popularity), and another part with an
explored last place, so that `slipstream report --by arm` can tell what the loop is worth. At the end a bad
model is planted, and refused.

The gate asks about what was found by searching. What popularity shows is nearly all that people click, so
judged by clicks on recommendations popularity is right, and the loop may not start: see LOG.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import slipstream
from slipstream.config import Home
from slipstream.loop.cycle import run_cycle
from slipstream.loop.journal import Record
from slipstream.loop.narrator import Silent
from slipstream.loop.policy import Policy
from slipstream.loop.reporting import report_online

GENRES = ("garden", "kitchen", "sport", "books", "music", "travel")
ITEMS, NEW_A_DAY = 180, 2
PATIENCE = 0.85
"""Of those who looked at one place, the part that looks at the next."""
BOUGHT = 0.2
FOUND = 2.0
"""Items that a person finds by themselves on an average day."""


@dataclass
class World:
    """taste [U, G] and style [I, G], both shares of genres; a person likes an item by their product."""

    taste: np.ndarray
    style: np.ndarray
    draw: np.random.Generator

    @classmethod
    def of(cls, people: int, seed: int) -> World:
        draw = np.random.default_rng(seed)
        taste = draw.dirichlet([0.25] * len(GENRES), people)
        return cls(taste, draw.dirichlet([0.15] * len(GENRES), ITEMS), draw)

    def likes(self, person: int) -> np.ndarray:
        """The chance of a click on each item that is looked at, [I]: true, and known to nobody else."""
        return 0.02 + 0.6 * self.style @ self.taste[person]

    def add_items(self, count: int) -> list[dict[str, Any]]:
        first = len(self.style)
        self.style = np.vstack([self.style, self.draw.dirichlet([0.15] * len(GENRES), count)])
        return [self.row(item) for item in range(first, first + count)]

    def row(self, item: int) -> dict[str, Any]:
        main = GENRES[int(self.style[item].argmax())]
        return {"item_id": f"i{item}", "title": f"{main.title()} {item}", "genre": main}

    def search(self, person: int, count: int) -> list[int]:
        """What a person finds by themselves: by taste, and because some things are on every corner."""
        chance = self.likes(person) ** 2 / np.arange(1, len(self.style) + 1) ** 0.5
        found = self.draw.choice(len(self.style), count, replace=False, p=chance / chance.sum())
        return [int(item) for item in found]

    def history(self) -> pl.DataFrame:
        """What people did before there were recommendations."""
        rows = [
            (f"p{person}", f"i{item}", "click", -int(self.draw.integers(60, 86_400)))
            for person in range(len(self.taste))
            for item in self.search(person, 16)
        ]
        frame = pl.DataFrame(rows, schema=["user_id", "item_id", "kind", "ago"], orient="row")
        now = pl.lit(int(time.time()))
        return frame.with_columns(time=now + pl.col("ago")).drop("ago")


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


def visit(world: World, shop: Shop, person: int) -> tuple[int, int]:
    """One person, one page. Returns (items shown, clicked)."""
    slate = shop.get(f"/v1/recommendations/p{person}?k=10")
    likes = world.likes(person)
    events = []
    looking = True
    for shown in slate["items"]:
        looking = looking and world.draw.random() < PATIENCE
        if not looking or world.draw.random() > likes[int(shown["item_id"][1:])]:
            continue
        about = {"user_id": f"p{person}", "item_id": shown["item_id"], "request_id": slate["request_id"]}
        events.append({**about, "kind": "click"})
        if world.draw.random() < BOUGHT:
            events.append({**about, "kind": "purchase", "value": 20.0})
    clicked = sum(event["kind"] == "click" for event in events)
    for item in world.search(person, int(world.draw.poisson(FOUND))):
        events.append({"user_id": f"p{person}", "item_id": f"i{item}", "kind": "click"})
    if events:
        shop.post("/v1/events", {"events": events})
    return len(slate["items"]), clicked


def open_shop(folder: Path, world: World) -> slipstream.Workspace:
    """Events, catalogue, and popularity live; a quarter of the people stay with it, whatever comes."""
    space = slipstream.open(folder)
    space.ingest(world.history())
    space.catalogue(pl.DataFrame([world.row(item) for item in range(ITEMS)]))
    space.prepare()
    space.train("popularity")
    space.release("popularity", name="first")
    arms = {
        "1-popular": {"weight": 1, "release": "first"},
        "2-live": {"weight": 2},
        "3-explored": {"weight": 1, "explore": {"share": 0.3, "pool": 30}},
    }
    (folder / "experiment.json").write_text(json.dumps({"name": "shop", "arms": arms}))
    return space


def policy(model: str) -> Policy:
    return Policy.model_validate(
        {
            "model": model,
            "ask_about": "unprompted",  # what was found without the list tells more of taste
            "data": {"events": 200, "users": 40},
            "ndcg": {"above": -0.01},  # as good and fresher will do
            "guardrails": {"size": 10.0},  # popularity is a list of numbers
            "drift": {"items": 2.0, "kinds": 2.0},  # recommendations change what is clicked: that is wanted
            "watch": {"minutes": 0},
        }
    )


def cycle(space: slipstream.Workspace, model: str) -> Record:
    record = run_cycle(space.home, policy(model), Silent())
    print(f"  cycle with {model}: {record.outcome} – {record.why}", flush=True)
    return record


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--days", type=int, default=12)
    options.add_argument("--people", type=int, default=200)
    options.add_argument("--every", type=int, default=3, help="days between cycles")
    options.add_argument("--home", type=Path, help="[default: a folder that is removed]")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        live(given, given.home or Path(folder) / "home")


def live(given: argparse.Namespace, folder: Path) -> None:
    world = World.of(given.people, given.seed)
    space = open_shop(folder, world)
    with serving(space.home) as shop:
        for day in range(1, given.days + 1):
            visits = [visit(world, shop, person) for person in world.draw.permutation(given.people)]
            shown, clicked = np.sum(visits, axis=0)
            print(f"day {day}: {clicked / shown:.1%} of what was shown was clicked", flush=True)
            shop.post("/v1/items", {"items": world.add_items(NEW_A_DAY)})
            if day % given.every == 0:
                cycle(space, "item_neighbours")
        planted = cycle(space, "popularity")
    print("the planted model was", planted.outcome)
    found = report_online(space.home, by="arm")
    for arm in found.earned:
        ctr, wide = arm.estimates["CTR"].interval(), arm.whole["Coverage@10"]
        print(f"{arm.group}: CTR {ctr.mean:.1%} [{ctr.low:.1%}, {ctr.high:.1%}], coverage {wide:.0%}")
    for line in found.lines():
        print(line)


if __name__ == "__main__":
    main()

"""People of known taste and a shelf of things: what a shop never knows, so that it can be checked."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

GENRES = ("garden", "kitchen", "sport", "books", "music", "travel")
ITEMS, GIFTS = 400, 20
PATIENCE = 0.85
"""Of those who looked at one place, the part that looks at the next."""
TRUST = 0.7
"""At first: how likely a person is to look at a list at all. One with a click earns it, others cost it."""
FOUND = 2.0
"""Items that a person finds by themselves on an average day."""
DRIFT = 0.02
"""The part of the people whose taste a day changes: half of them in a month."""


@dataclass
class World:
    """taste [U, G] and style [I, G], both shares of genres; a person likes an item by their product.

    The last GIFTS of the first ITEMS are gifts: nobody clicks them in a list, and everybody looks for them in
    the days before a feast.
    """

    taste: np.ndarray
    style: np.ndarray
    trust: np.ndarray
    draw: np.random.Generator
    feast: bool = False
    added: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, people: int, seed: int) -> World:
        draw = np.random.default_rng(seed)
        taste = draw.dirichlet([0.25] * len(GENRES), people)
        return cls(taste, draw.dirichlet([0.15] * len(GENRES), ITEMS), np.full(people, TRUST), draw)

    def likes(self, person: int) -> np.ndarray:
        """The chance of a click on each item that is looked at, [I]: true, and known to nobody else."""
        chance = 0.02 + 0.6 * self.style @ self.taste[person]
        chance[ITEMS - GIFTS : ITEMS] = 0.01
        return chance

    def a_day_passes(self) -> None:
        changed = self.draw.random(len(self.taste)) < DRIFT
        self.taste[changed] = self.draw.dirichlet([0.25] * len(GENRES), int(changed.sum()))

    def add_items(self, count: int) -> list[dict[str, Any]]:
        first = len(self.style)
        self.style = np.vstack([self.style, self.draw.dirichlet([0.15] * len(GENRES), count)])
        self.added += range(first, first + count)
        return [self.row(item) for item in range(first, first + count)]

    def row(self, item: int) -> dict[str, Any]:
        main = GENRES[int(self.style[item].argmax())]
        return {"item_id": f"i{item}", "title": f"{main.title()} {item}", "genre": main}

    def looks_at(self, person: int, shown: list[int]) -> list[int]:
        """The items of a list that are clicked: fewer and fewer people look further down."""
        clicked, likes = [], self.likes(person)
        looking = self.draw.random() < self.trust[person]
        for item in shown:
            looking = looking and self.draw.random() < PATIENCE
            if looking and self.draw.random() < likes[item]:
                clicked.append(item)
        change = 0.1 * (1 - self.trust[person]) if clicked else -0.02 * self.trust[person]
        self.trust[person] += change
        return clicked

    def search(self, person: int, count: int) -> list[int]:
        """What a person finds by themselves: by taste, and because some things are on every corner."""
        chance = self.likes(person) ** 2 / np.arange(1, len(self.style) + 1) ** 0.5
        if self.feast:
            chance[ITEMS - GIFTS : ITEMS] = 20 * chance.max()
        found = self.draw.choice(len(self.style), count, replace=False, p=chance / chance.sum())
        return [int(item) for item in found]

    def finds(self, person: int) -> list[int]:
        return self.search(person, int(self.draw.poisson(3 * FOUND if self.feast else FOUND)))

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

"""Groceries (music is the same): people want the same thing again, so `repeat` is allowed.

Run it:  python examples/groceries.py
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import polars as pl

import slipstream
from slipstream.recommend.rules import Rules

SHELF = ["milk", "bread", "butter", "apples", "rice", "lentils", "coffee", "tea", "soap", "candles"]


def baskets(people: int = 120, weeks: int = 8) -> pl.DataFrame:
    """Everyone has a few things for every week, and now and then something else."""
    draw, rows = random.Random(3), []
    for person in range(people):
        weekly = draw.sample(SHELF, 3)
        for week in range(weeks):
            other = [draw.choice(SHELF)] if draw.random() < 0.3 else []
            rows += [
                (f"c{person}", thing, 1_700_000_000 + week * 604_800 + n)
                for n, thing in enumerate(weekly + other)
            ]
    return pl.DataFrame(rows, schema=["customer_id", "product", "time"], orient="row")


def main(folder: Path) -> None:
    home = slipstream.open(folder / "groceries-home")
    home.ingest(baskets())  # the columns customer_id, product and time are recognised
    home.prepare()
    home.train("item_neighbours")
    home.release("item_neighbours", rules=Rules(repeat=True))
    with home.store() as store:
        usual = store.history("c1", limit=12)["item_id"].to_list()
    slate = home.recommend("c1", k=5)
    print("bought lately:", ", ".join(dict.fromkeys(usual)))
    print("next basket:  ", ", ".join(item.item_id for item in slate.items))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))

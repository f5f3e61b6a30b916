"""A shop: views, carts and purchases; what counts is the purchase.

Run it:  python examples/shop.py
It makes up a small shop, so replace `a_months_log()` and `CATALOGUE` with your own files:
`home.ingest("events.csv")`, `home.catalogue("products.csv")`.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import polars as pl

import slipstream
from slipstream.recommend.rules import Rules

KINDS = ["tea", "cups", "books", "lamps"]
CATALOGUE = pl.DataFrame(
    {
        "item_id": [f"p{n}" for n in range(80)],
        "title": [f"{KINDS[n % 4].title()} no. {n}" for n in range(80)],
        "category": [KINDS[n % 4] for n in range(80)],
        "price": [5.0 + n % 17 for n in range(80)],
    }
)


def a_months_log(people: int = 300) -> pl.DataFrame:
    """People look around in the two categories they like, and buy what is popular there."""
    draw, rows = random.Random(7), []
    for person in range(people):
        liked = draw.sample(range(4), 2)
        start = 1_700_000_000 + draw.randrange(20) * 86_400
        for step in range(draw.randint(4, 14)):
            item = f"p{4 * min(int(draw.expovariate(0.2)), 19) + draw.choice(liked)}"
            time = start + step * 90
            rows.append((f"u{person}", item, "view", time))
            if draw.random() < 0.4:
                rows.append((f"u{person}", item, "cart", time + 30))
            if draw.random() < 0.25:
                rows.append((f"u{person}", item, "purchase", time + 60))
    return pl.DataFrame(rows, schema=["user_id", "item_id", "event", "time"], orient="row")


def main(folder: Path) -> None:
    home = slipstream.open(folder / "shop-home")
    report = home.ingest(a_months_log(), kind="event")
    print(*report.lines(), sep="\n")
    home.catalogue(CATALOGUE)
    home.prepare()

    # Conversion as the goal: models are chosen and measured on purchases; views and carts are the history.
    found = home.evaluate(["popularity", "item_neighbours", "ease"], boards=["temporal"], goal="purchase")
    for trial in found.trials:
        low, high = trial.to_json()["intervals"]["NDCG@10"]
        print(f"{trial.model:16} NDCG@10 on purchases {trial.metrics['NDCG@10']:.4f} [{low:.4f}, {high:.4f}]")

    home.train("item_neighbours", goal="purchase")
    # Looking at a thing does not rule it out; having bought it does.
    home.release("item_neighbours", rules=Rules(touched_by=("purchase",)))
    slate = home.recommend("u1", k=5)
    for item in slate.items:
        print(f"{item.title:14} {item.score:7.3f}  {' '.join(reason.text for reason in item.reasons)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))

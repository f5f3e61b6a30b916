"""Films: ratings, a catalogue with directors, a knowledge graph, and reasons that are paths in it.

Run it:  python examples/films.py
The data is made up; `make demo` does the same on real films and ratings.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import polars as pl

import slipstream

DIRECTORS = ["Ada Quill", "Ben Rook", "Cleo Stone", "Dov Tern", "Eve Umber", "Finn Vale"]
FILMS = pl.DataFrame(
    {
        "item_id": [str(n) for n in range(60)],
        "title": [f"Film {n} ({1970 + n % 40})" for n in range(60)],
        "director": [DIRECTORS[n % 6] for n in range(60)],
        "genre": [
            [["drama", "comedy", "crime"][n % 3], *(["classic"] if n % 5 == 0 else [])] for n in range(60)
        ],
    }
)


def ratings(people: int = 200) -> pl.DataFrame:
    """Everyone follows two directors, with an excursion now and then."""
    draw, rows = random.Random(5), []
    for person in range(people):
        followed = draw.sample(range(6), 2)
        own = [n for n in range(60) if n % 6 in followed]
        seen = draw.sample(own, draw.randint(6, 12)) + draw.sample(range(60), 2)
        rows += [
            (f"u{person}", str(film), 1_600_000_000 + 3_600 * n) for n, film in enumerate(dict.fromkeys(seen))
        ]
    return pl.DataFrame(rows, schema=["userId", "movieId", "timestamp"], orient="row")


def main(folder: Path) -> None:
    home = slipstream.open(folder / "film-home")
    home.ingest(ratings())
    home.catalogue(FILMS)
    home.prepare()
    home.train("path_reasoner")
    home.release("path_reasoner")
    slate = home.recommend("u3", k=5)
    for item in slate.items:
        print(f"{item.title:18} {item.score:7.4f}")
        for reason in item.reasons:
            print(f"    {reason.share:4.0%}  {reason.text}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))

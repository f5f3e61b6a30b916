"""How fast are lists for everybody, from histories and from states that are there already?

    python benchmarks/bulk.py [--model transformer] [--items 3706] [--users 6000] [--length 100]

Calls what `slipstream recommend --all-users` calls. Prints users per CPU second for both parts, beside the bare
matrix product of the second part, the floor.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from serving_world import home_for, log, machine
from slipstream.dataset.snapshot import snapshot_of
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.loop.bulk import recommend_all
from slipstream.models.recommender import Embeds
from slipstream.recommend.live_release import current_release
from slipstream.recommend.release import Release


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="transformer")
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--users", type=int, default=6_000)
    parser.add_argument("--length", type=int, default=100, help="events of a user")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="bulk-") as folder:
        home = home_for(options, folder)
        rows = log(options.users, options.items, options.length, options.seed)
        names = Vocabulary.of([f"i{i}" for i in range(options.items)])
        snapshot_of(rows.drop("event_id", "kind"), items=names).write(home.snapshot)
        wall = time.perf_counter()
        done = recommend_all(home, Path(folder) / "all.parquet", 10)
        for line in done.lines(Path("all.parquet")):
            print(line)
        print(
            f"{options.users / (time.perf_counter() - wall):,.0f} users/s by the clock, opening and writing included"
        )
        model = Release.open(current_release(home)).primary
        if isinstance(model, Embeds):
            table = np.ascontiguousarray(model.item_vectors().T)
            states = np.random.default_rng(0).normal(size=(256, len(table))).astype(np.float32)
            best = min(_product(states, table) for _ in range(20))
            print(f"{256 / best:,.0f} users/s for the product alone")


def _product(states: np.ndarray, table: np.ndarray) -> float:
    start = time.process_time()
    states @ table
    return time.process_time() - start


if __name__ == "__main__":
    main()

"""What does a new event cost until the next slate is there, without reasons and with them?

    python benchmarks/next_event.py [--items 3706] [--length 200] [--shape ml-1m|small] [--rounds 400]

In process, one thread, an untrained transformer: ml-1m has the shape of the ML-1M preset (d 128, 4 layers, window 64),
small d 64, 2 layers, window 64. Per event: it is stored (not counted), then CPU time until the slate of ten is made:
the event is read from the store, taken into the state, the catalogue searched, reasons by history worked out and worded.
`anew` takes the reasons from the whole history, as before there were states for them. Slate cache off. Storing leaves the
processor's caches cold; `applied` is the same where the events of all users were stored and taken in before, in one
batch (its cost is told per event), so that a slate is a step, a search and its reasons. Every item is one the model knows.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402

from serving_world import SHAPES, machine, make_home  # noqa: E402
from slipstream.events.event import EventBatch  # noqa: E402
from slipstream.events.sqlite import SqliteEventStore  # noqa: E402
from slipstream.recommend.live_release import current_release  # noqa: E402
from slipstream.recommend.memo import ModelMemory  # noqa: E402
from slipstream.recommend.pipeline import Pipeline, Request  # noqa: E402
from slipstream.recommend.release import Release  # noqa: E402

USERS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--length", type=int, default=200, help="events of a user before")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="ml-1m")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="next-event-") as folder:
        home = make_home(
            Path(folder) / "home",
            users=USERS,
            items=options.items,
            length=options.length,
            model="transformer",
            seed=options.seed,
            shape=options.shape,
            known=True,
        )
        release = Release.open(current_release(home))
        release.warm()
        with SqliteEventStore(home.events) as store:
            pipeline = Pipeline(release, store, home=home, slate_cache=False)
            measure = Measure(pipeline, store, options)
            for explain in (False, True):
                for user in range(USERS):
                    pipeline.recommend(Request(user_id=f"u{user}", explain=explain))
            measure("a slate", explain=False)
            measure("with history reasons", explain=True)
            measure.applied("applied: a slate", explain=False)
            measure.applied("applied: with history reasons", explain=True)
            living = ModelMemory.contributions
            ModelMemory.contributions = lambda self, model, query, items: (
                np.arange(len(query.item)),
                model.contributions(query, items),
            )
            measure("with history reasons, anew", explain=True)
            ModelMemory.contributions = living
            searched, rescored = pipeline.searched()
            print(f"items scored exactly in a search: {rescored / searched:.0f} of {options.items}")


class Measure:
    def __init__(self, pipeline: Pipeline, store: SqliteEventStore, options: argparse.Namespace) -> None:
        self._pipeline, self._store, self._options = pipeline, store, options
        self._draw = np.random.default_rng(options.seed)

    def __call__(self, name: str, *, explain: bool) -> None:
        slates = []
        for n in range(self._options.rounds):
            user = f"u{n % USERS}"
            self._append(user)
            slates.append(self._slate(user, explain))
        self._tell(name, slates)

    def applied(self, name: str, *, explain: bool) -> None:
        """As a call, with the events of all users stored and taken in beforehand."""
        slates, taking = [], []
        for _ in range(max(1, self._options.rounds // USERS)):
            for user in range(USERS):
                self._append(f"u{user}")
            taking.append(self._slate("nobody", explain)[0] / USERS)
            slates += [self._slate(f"u{user}", explain) for user in range(USERS)]
        self._tell(name, slates)
        print(f"{'  taking in, an event of 100':30} {np.median(taking):6.1f}")

    def _slate(self, user: str, explain: bool) -> tuple[float, int]:
        """CPU microseconds until the slate is there, and how many reasons it has."""
        start = time.process_time_ns()
        slate = self._pipeline.recommend(Request(user_id=user, explain=explain))
        taken = (time.process_time_ns() - start) / 1e3
        return taken, sum(len(item.reasons) for item in slate.items)

    def _tell(self, name: str, slates: list[tuple[float, int]]) -> None:
        least, p50, p99 = np.percentile([taken for taken, _ in slates], [0, 50, 99])
        reasons = np.mean([reasons for _, reasons in slates])
        print(
            f"{name:30} least {least:6.0f}  p50 {p50:6.0f}  p99 {p99:6.0f} us CPU  ({reasons:.1f} reasons a slate)"
        )

    def _append(self, user: str) -> None:
        item = f"i{self._draw.integers(self._options.items)}"
        row = {"user_id": [user], "item_id": [item], "time_us": [time.time_ns() // 1000]}
        self._store.append(EventBatch.of(pl.DataFrame(row)))


if __name__ == "__main__":
    main()

"""One more day of events: a warm start against a whole training, on what came after, at dates fixed in advance.

    python benchmarks/warm_start.py --data FOLDER [--dates 5] [--model transformer] [--set epochs=8 --set dim=64]

For each date d (evenly spaced over the last third of the events' time): a model is trained on everything before d,
then once more with the next day, from the beginning and from the earlier weights. Both are asked for the new items of
the next events (as many as a day holds on average, at least --asked). Validation inside a training is each
person's last event, as in `slipstream train`. CPU seconds of the whole fit, one thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from slipstream.cluster.threads import blas_threads
from slipstream.config import parse_assignments, with_overrides
from slipstream.dataset.folder import read_folder
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.dataset.validation import hold_out_last
from slipstream.evaluation.contest import questions
from slipstream.evaluation.intervals import paired_interval
from slipstream.evaluation.metrics import accuracy
from slipstream.models.recommender import Earlier, FitContext, Recommender, TrainingData
from slipstream.models.registry import model_type
from slipstream.recommend.ranking import rank

DAY_US = 86_400_000_000


def data_of(rows: pl.DataFrame, seed: int) -> tuple[Snapshot, TrainingData]:
    whole = snapshot_of(rows)
    train, validation = hold_out_last(whole, seed=seed)
    return whole, TrainingData(train, validation)


def ndcg(model: Recommender, past: Snapshot, later: pl.DataFrame) -> np.ndarray:
    asked = questions(past, later)
    assert asked is not None
    return accuracy(rank(model, asked.queries, 10)[0], asked, [10])["NDCG@10"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--dates", type=int, default=5)
    options.add_argument("--asked", type=int, default=2_000, help="events after the day, at least")
    options.add_argument("--model", default="transformer")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--set", action="append", default=[], help="over the preset, e.g. dim=64")
    given = options.parse_args()
    changes = parse_assignments(given.set)
    cores = len(os.sched_getaffinity(0))
    print(
        f"machine: {platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}, numpy {np.__version__}"
    )
    print(f"command: python {' '.join(sys.argv)}")
    rows = read_folder(given.data).interactions.sort("time_us", maintain_order=True)
    times, kind = rows["time_us"].to_numpy(), model_type(given.model)
    first, last = times[len(times) * 2 // 3], times[-given.asked - 1] - DAY_US
    both: list[np.ndarray] = []
    chosen = None
    for place, date in enumerate(np.linspace(first, last, given.dates)):
        before, after = rows.filter(pl.col("time_us") < date), rows.filter(pl.col("time_us") >= date + DAY_US)
        known = rows.filter(pl.col("time_us") < date + DAY_US)
        old, learning = data_of(before, given.seed)
        with blas_threads():
            context = FitContext(given.seed)
            base = kind.fit(learning, chosen or with_overrides(kind.preset(learning), changes), context)
            chosen = base.settings  # what the first date chooses on validation, the others keep
            past, learning = data_of(known, given.seed)
            earlier = Earlier(
                base,
                old.items.numbers(past.items.series("item_id")),
                old.users.numbers(past.users.series("user_id")),
            )
            spent, found = [], []
            for warm in (False, True):
                start = time.process_time()
                fitted = (
                    kind.fit_on(learning, base.settings, context, earlier)  # type: ignore[attr-defined]
                    if warm
                    else kind.fit(learning, base.settings, context)
                )
                spent.append(time.process_time() - start)
                found.append(ndcg(fitted, past, after[: given.asked]))
            stale = (
                ndcg(base, past, after[: given.asked])
                if old.items.to_list() == past.items.to_list()
                else None
            )
        both.append(np.column_stack(found))
        told = "" if stale is None else f", without the day {stale.mean():.4f}"
        print(
            f"date {place + 1}: {known.height - before.height:,} events in the day, {len(found[0]):,} people asked; "
            f"NDCG@10 whole {found[0].mean():.4f} ({spent[0]:.1f} CPU s), warm {found[1].mean():.4f} "
            f"({spent[1]:.1f} CPU s, {spent[1] / spent[0]:.0%}){told}",
            flush=True,
        )
    whole, warm = np.concatenate(both).T
    seen = paired_interval(warm, whole)
    print(
        f"all dates: whole {whole.mean():.4f}, warm {warm.mean():.4f}, difference {seen.mean / whole.mean():+.1%} "
        f"[{seen.low / whole.mean():+.1%}, {seen.high / whole.mean():+.1%}] of whole, {len(whole):,} people and dates"
    )


if __name__ == "__main__":
    main()

"""What is popularity within a segment worth to people who are not known?

    python benchmarks/segments.py [--data ml-100k ml-1m] [--seed 0]

Half of the people are held out whole: their events are not counted, all their items are what should be found. Of
these, a half is validation (how much a segment is mixed with everybody was chosen there), the other half test.
NDCG@10 of popularity, and the gain by each column of the table of people that has 2 to 100 values, paired over
people, with the normal 95 % interval. Last: microseconds of CPU for the scores of one segment.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from serving_world import machine
from slipstream.dataset.folder import read_folder
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.inference.retriever import top_k
from slipstream.recommend.segments import PRIOR, Segments, values_of

SHARED = Path(os.environ.get("SLIPSTREAM_SHARED", Path(__file__).parents[2] / "shared"))
K = 10
PRIORS = (3.0, 10.0, 30.0, 100.0, 300.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["ml-100k", "ml-1m"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine())
    for name in options.data:
        folder = read_folder(SHARED / "data" / name)
        assert folder.users is not None
        whole = snapshot_of(folder.interactions)
        part = np.random.default_rng(options.seed).permutation(len(whole.users)) % 4  # 0, 1: counted
        counted = whole.users.texts(np.flatnonzero(part < 2))
        rows = folder.interactions.filter(pl.col("user_id").is_in(counted))
        known = snapshot_of(rows, items=whole.items)
        print(f"{name}: {len(counted)} people counted")
        for column in folder.users.columns[1:]:
            if 2 <= folder.users[column].n_unique() <= 100:
                tell(column, folder.users, known, whole, np.flatnonzero(part == 2), np.flatnonzero(part == 3))


def tell(
    column: str,
    table: pl.DataFrame,
    known: Snapshot,
    whole: Snapshot,
    validation: NDArray[np.int64],
    test: NDArray[np.int64],
) -> None:
    segments = Segments.of(known, table, column)
    if segments is None:
        return
    own = values_of(table, column)
    for name, people, priors in (("validation", validation, PRIORS), ("test", test, (PRIOR,))):
        places = [segments.number(own.get(user_id)) for user_id in whole.users.texts(people)]
        plain = ndcg(whole, people, [segments.share] * len(people))
        for prior in priors:
            by_segment = [segments.scores(place, prior) for place in range(len(segments.people))]
            gain = ndcg(whole, people, [by_segment[p] if p >= 0 else segments.share for p in places]) - plain
            width = 1.96 * gain.std() / np.sqrt(len(gain))
            print(
                f"  {column:14} {len(segments.people):3} segments  {name:10} prior {prior:4g}  popularity "
                f"{plain.mean():.4f}  gain {gain.mean():+.4f} [{gain.mean() - width:+.4f}, {gain.mean() + width:+.4f}]"
            )
    start = time.process_time()
    for n in range(1_000):
        segments.scores(n % len(segments.people))
    print(f"  {column:14} scores of a segment: {(time.process_time() - start) * 1e3:.0f} us CPU")


def ndcg(
    whole: Snapshot, people: NDArray[np.int64], scores: Iterable[NDArray[np.float32]]
) -> NDArray[np.float64]:
    discount = 1 / np.log2(np.arange(2, K + 2))
    found = []
    for person, row in zip(people, scores, strict=True):
        targets = np.unique(whole.item[whole.offsets[person] : whole.offsets[person + 1]])
        hits = np.isin(top_k(row[None, :], K)[0][0], targets)
        found.append((hits * discount[: len(hits)]).sum() / discount[: min(K, len(targets))].sum())
    return np.array(found)


if __name__ == "__main__":
    main()

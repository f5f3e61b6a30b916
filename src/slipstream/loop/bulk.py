"""Lists for every user into one file, in batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from slipstream.config import Home, Progress, silent
from slipstream.dataset.queries import queries_of
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import NotThere
from slipstream.loop.tables import write_parquet
from slipstream.recommend.pipeline import never_shown, rank
from slipstream.recommend.release import Release, current_release
from slipstream.recommend.rules import read_rules

BATCH = 1024


def recommend_all(home: Home, file: Path, k: int, progress: Progress = silent) -> int:
    """Write user_id, item_id, rank, score for all users of the snapshot. Returns the rows written.

    The live release's model ranks each history of the snapshot under the home's rules (else the release's):
    `repeat`, `touched_by`, `blocked`, `require` and `forbid`. `variety` and newcomers are for single answers.
    Memory O(batch · items).
    """
    release = Release.open(current_release(home))
    snapshot = Snapshot.open(home.snapshot)
    if snapshot.items.to_list() != release.items.to_list():
        raise NotThere("the live release was made from another snapshot", hint="train and release again")
    rules = read_rules(home.root, release.rules)
    allowed = ~never_shown(release.shelf, rules)
    counts = np.array([rules.touches(kind) for kind in snapshot.kinds], bool)
    users = np.arange(snapshot.user_count)
    queries = queries_of(snapshot, users)
    parts = []
    for start, part in queries.batches(BATCH):
        progress(start, len(queries), "users")
        candidates = np.repeat(allowed[None, :], len(part), axis=0)
        if not rules.repeat:
            first = int(queries.offsets[start])  # the queries are all users in order: events lie as stored
            touched = counts[snapshot.kind[first : first + len(part.item)]]
            candidates[part.rows()[touched], part.item[touched]] = False
        items, scores = rank(release.primary, part, k, repeat=True, candidates=candidates)
        row, place = np.nonzero(items >= 0)
        parts.append(
            pl.DataFrame(
                {
                    "user": (start + row).astype(np.int64),
                    "item": items[row, place].astype(np.int64),
                    "rank": (place + 1).astype(np.int32),
                    "score": scores[row, place],
                }
            )
        )
    table = pl.concat(parts) if parts else pl.DataFrame(schema={"user": pl.Int64, "item": pl.Int64})
    named = table.with_columns(
        snapshot.users.series("user_id").gather(table["user"]),
        snapshot.items.series("item_id").gather(table["item"]),
    )
    write_parquet(named.select("user_id", "item_id", "rank", "score"), file)
    return named.height

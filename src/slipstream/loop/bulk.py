"""Lists for every user into one file, in batches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.config import Home, Progress, silent
from slipstream.dataset.queries import Queries, queries_of
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import NotThere
from slipstream.events.forgetting import check_nobody_forgotten
from slipstream.loop.tables import write_parquet
from slipstream.models.recommender import Embeds
from slipstream.recommend.live_release import current_release
from slipstream.recommend.pipeline import never_shown
from slipstream.recommend.ranking import VectorRanking, rank
from slipstream.recommend.release import Release
from slipstream.recommend.rules import read_rules

BATCH = 1_024


@dataclass
class Bulk:
    """What was written, and the CPU seconds of its two parts: histories to states, states to lists."""

    users: int = 0
    rows: int = 0
    states_s: float = 0.0
    lists_s: float = 0.0

    def lines(self, file: Path) -> list[str]:
        said = [f"{self.rows:,} rows for {self.users:,} users written to {file}"]
        if self.states_s:
            said.append(
                f"{self.users / self.states_s:,.0f} users/s from history to state, "
                f"{self.users / self.lists_s:,.0f} users/s from state to list (of CPU time)"
            )
        elif self.lists_s:
            said.append(f"{self.users / self.lists_s:,.0f} users/s (of CPU time)")
        return said


def recommend_all(home: Home, file: Path, k: int, progress: Progress = silent) -> Bulk:
    """Write user_id, item_id, rank, score for all users of the snapshot.

    The live release's model ranks each history of the snapshot under the home's rules (else the release's):
    `repeat`, `touched_by`, `blocked`, `require` and `forbid`. `variety` and newcomers are for single answers.
    Memory O(batch · items). Raises NotThere if the snapshot is another than the release's, or holds somebody
    who was forgotten.
    """
    check_nobody_forgotten(home)
    release = Release.open(current_release(home))
    snapshot = Snapshot.open(home.snapshot)
    if snapshot.items.to_list() != release.items.to_list():
        raise NotThere("the live release was made from another snapshot", hint="train and release again")
    rules = read_rules(home.root, release.rules)
    allowed = ~never_shown(release.shelf, rules)
    counts = np.array([rules.touches(kind) for kind in snapshot.kinds], bool)
    queries = queries_of(snapshot, np.arange(snapshot.user_count))
    done, parts = Bulk(), []
    ranking = _Ranking(release, k, done)
    for start, part in queries.batches(BATCH):
        progress(start, len(queries), "users")
        candidates = np.repeat(allowed[None, :], len(part), axis=0)
        if not rules.repeat:
            first = int(queries.offsets[start])  # the queries are all users in order: events lie as stored
            touched = counts[snapshot.kind[first : first + len(part.item)]]
            candidates[part.rows()[touched], part.item[touched]] = False
        parts.append(_table(start, *ranking.of(part, candidates)))
    table = pl.concat(parts) if parts else _table(0, np.zeros((0, k), np.int32), np.zeros((0, k), np.float32))
    named = table.with_columns(
        snapshot.users.series("user_id").gather(table["user"]),
        snapshot.items.series("item_id").gather(table["item"]),
    )
    write_parquet(named.select("user_id", "item_id", "rank", "score"), file)
    done.users, done.rows = len(queries), named.height
    return done


class _Ranking:
    """The lists of a batch of histories; a model with vectors goes by its states."""

    def __init__(self, release: Release, k: int, done: Bulk) -> None:
        self._model, self._k, self._done = release.primary, k, done
        self._vectors = VectorRanking(release.primary) if isinstance(release.primary, Embeds) else None

    def of(
        self, queries: Queries, candidates: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Items [Q, K] and scores [Q, K] of the candidates [Q, I], padded as `rank` does."""
        start = time.process_time()
        if self._vectors is None or not isinstance(self._model, Embeds):
            found = rank(self._model, queries, self._k, repeat=True, candidates=candidates)
        else:
            states = self._model.query_vectors(queries)
            self._done.states_s += time.process_time() - start
            start = time.process_time()
            found = self._vectors.rank(states, queries, self._k, candidates)
        self._done.lists_s += time.process_time() - start
        return found


def _table(start: int, items: NDArray[np.int32], scores: NDArray[np.float32]) -> pl.DataFrame:
    row, place = np.nonzero(items >= 0)
    return pl.DataFrame(
        {
            "user": (start + row).astype(np.int64),
            "item": items[row, place].astype(np.int64),
            "rank": (place + 1).astype(np.int32),
            "score": scores[row, place],
        }
    )

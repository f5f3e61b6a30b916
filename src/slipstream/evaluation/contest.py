"""Two releases asked for the same targets: what came after everything that either of them learned from.

Each event is first a question and then a lesson (prequential evaluation, Dawid 1984): the newest events are
judged on here, and learned from by the cycle after this one. Releases number people and items each in its own
way, so everything is asked by id.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.dataset.queries import Holdout, Queries, queries_of
from slipstream.dataset.snapshot import Snapshot
from slipstream.evaluation.intervals import Interval, bootstrap_interval, paired_interval
from slipstream.evaluation.metrics import ItemLists, accuracy, coverage
from slipstream.evaluation.scores import interval_pair
from slipstream.recommend.ranking import rank
from slipstream.recommend.release import Release

TIMED = 60
"""Answers timed of each release, in turns."""
MOST_POPULAR = 0.01


@dataclass(frozen=True)
class Figures:
    """One release. popularity_share: of all places, those of the most popular hundredth of items."""

    name: str
    model: str
    ndcg: Interval
    coverage: float
    popularity_share: float
    without_list: float
    p50_ms: float  # CPU time of a ranking
    bytes: int

    def to_json(self) -> dict[str, object]:
        return {**vars(self), "ndcg": self.ndcg.mean, "ndcg_interval": interval_pair(self.ndcg)}


@dataclass(frozen=True)
class Contest:
    """difference: NDCG@k of candidate − live over the same people. overlap: mean part of a list in both.

    live, difference, overlap are None where nothing was live. targets_sha256: as on the boards.
    """

    users: int
    targets: int
    targets_sha256: str
    candidate: Figures
    live: Figures | None
    difference: Interval | None
    overlap: float | None


def questions(past: Snapshot, later: pl.DataFrame, *, repeat: bool = False) -> Holdout | None:
    """People of `past` with a history, and the distinct items of `later` that are new to them; None: nobody.

    later: user_id, item_id in order of time. An item that `past` does not hold is a target nobody can find;
    it gets a number after the known ones. repeat: also items that the person had touched before.
    """
    events = later.select("user_id", "item_id").unique(maintain_order=True, keep="first")
    user = past.users.numbers(events["user_id"])
    item = past.items.numbers(events["item_id"]).astype(np.int64)
    item = np.where(item < 0, past.item_count + _places(events["item_id"]), item)
    asked = (user >= 0) & np.concatenate([np.diff(past.offsets) > 0, [False]])[user]
    if not repeat:
        width = past.item_count + len(events)
        pair = user.astype(np.int64) * width + item
        known = past.user.astype(np.int64) * width + past.item
        asked &= ~np.isin(pair, known)
    rows = np.flatnonzero(asked)
    if not len(rows):
        return None
    rows = rows[np.argsort(user[rows], kind="stable")]
    people, counts = np.unique(user[rows], return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Holdout(queries_of(past, people), offsets, item[rows].astype(np.int32))


def _places(ids: pl.Series) -> NDArray[np.int64]:
    """A number for each distinct id, the same wherever it stands."""
    return ids.rank("dense").to_numpy().astype(np.int64) - 1


def contest(
    past: Snapshot, asked: Holdout, candidate: Release, live: Release | None, *, k: int, repeat: bool = False
) -> Contest:
    """Ask both releases for the targets. Memory as of `rank`; time of one answer a person and release."""
    releases = [candidate] if live is None else [candidate, live]
    lists = [_answers(release, past, asked.queries, k, repeat=repeat) for release in releases]
    values = [accuracy(found, asked, [k])[f"NDCG@{k}"] for found in lists]
    times = _times_ms(releases, past, asked.queries, k)
    figures = [
        _figures(release, past, found, ndcg, p50, k)
        for release, found, ndcg, p50 in zip(releases, lists, values, times, strict=True)
    ]
    return Contest(
        users=len(asked),
        targets=len(asked.target),
        targets_sha256=_hash(past, asked),
        candidate=figures[0],
        live=None if live is None else figures[1],
        difference=None if live is None else paired_interval(values[0], values[1]),
        overlap=None if live is None else _overlap(lists[0], lists[1]),
    )


def _figures(
    release: Release, past: Snapshot, lists: ItemLists, ndcg: NDArray[np.float64], p50_ms: float, k: int
) -> Figures:
    popular = np.argsort(-past.item_counts, kind="stable")[: max(1, round(past.item_count * MOST_POPULAR))]
    shown = lists[lists >= 0]
    return Figures(
        name=release.name,
        model=str(release.meta["primary"]),
        ndcg=bootstrap_interval(ndcg),
        coverage=coverage(lists, k, past.item_count),
        popularity_share=float(np.isin(shown, popular).mean()) if len(shown) else 0.0,
        without_list=float((lists < 0).all(axis=1).mean()),
        p50_ms=p50_ms,
        bytes=release.size(),
    )


def _asked_of(release: Release, past: Snapshot, queries: Queries) -> Queries:
    """The queries in the release's own numbers; events on items that it does not hold are left out."""
    item = release.items.numbers(past.items.series("item_id"))[queries.item]
    known = item >= 0
    counts = np.bincount(queries.rows()[known], minlength=len(queries))
    return replace(
        queries,
        user=release.users.numbers(past.users.series("user_id"))[queries.user].astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        item=item[known].astype(np.int32),
        time_us=None if queries.time_us is None else queries.time_us[known],
    )


def _answers(release: Release, past: Snapshot, queries: Queries, k: int, *, repeat: bool) -> ItemLists:
    """The lists in the numbers of `past`, [Q, K]; -1 for no item, or one that `past` does not hold.

    As in serving, popularity answers where the model has nothing to say.
    """
    own = _asked_of(release, past, queries)
    lists, _ = rank(release.primary, own, k, repeat=repeat)
    silent = np.flatnonzero((lists < 0).all(axis=1))
    for query in silent.tolist():
        lists[query] = rank(release.popularity, own.part(query, query + 1), k, repeat=repeat)[0][0]
    numbers = np.append(past.items.numbers(release.items.series("item_id")), -1).astype(np.int32)
    return np.asarray(numbers[lists], np.int32)


def _times_ms(releases: list[Release], past: Snapshot, queries: Queries, k: int) -> list[float]:
    """Median CPU milliseconds of one ranking of each release; they take turns, to meet the same load."""
    picked = np.unique(np.linspace(0, len(queries) - 1, min(TIMED, len(queries))).astype(np.int64))
    own = [_asked_of(release, past, queries) for release in releases]
    spent: list[list[float]] = [[] for _ in releases]
    for query in picked.tolist():
        for place, release in enumerate(releases):
            start = time.process_time_ns()
            rank(release.primary, own[place].part(query, query + 1), k)
            spent[place].append((time.process_time_ns() - start) / 1e6)
    return [round(float(np.median(times)), 4) for times in spent]


def _overlap(a: ItemLists, b: ItemLists) -> float:
    """Mean |A ∩ B| ÷ K."""
    both = (a[:, :, None] == b[:, None, :]) & (a[:, :, None] >= 0)
    return float(both.any(axis=2).sum(axis=1).mean() / a.shape[1])


def _hash(past: Snapshot, asked: Holdout) -> str:
    """Of the sorted (person, item number) pairs: two contests with one hash asked for the same."""
    rows = np.column_stack([np.repeat(asked.queries.user, np.diff(asked.offsets)), asked.target])
    return hashlib.sha256(np.ascontiguousarray(rows[np.lexsort(rows.T)]).tobytes()).hexdigest()

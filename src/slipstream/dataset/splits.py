"""Boards: one data set cut into what a model may learn from and what it is asked afterwards.

    loo       each user's last event is the test, the one before it the validation (users with >= 3 events)
    loo-t     the same, and the model is told the time of the request
    temporal  the last 10 % of all events in time are the test, the 10 % before them the validation
    split     the published split of the data
    cold      all events of some items are the test; only those items may be recommended

Everything lives over one vocabulary of all users and items of the data. A board knows nothing of models and
metrics. Cost: one stable sort by user and a few passes over the events; no Python objects per event.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.dataset.folder import DataFolder
from slipstream.dataset.queries import Holdout, queries_of
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.errors import BadInput, UnknownName
from slipstream.randomness import generator

Mask = NDArray[np.bool_]

COLD_TEST_BELOW = 15
COLD_VALIDATION_BELOW = 25
VALIDATION_NAMES = ("valid", "validation", "val", "dev")


@dataclass(frozen=True)
class Board:
    """What to learn from, what to choose on, and what to be measured on.

    train: what a model may learn from while choosing. past: what is known at the time of the test (train and
      validation; on `cold` only train, as the hidden items stay hidden). Both hold all users and items.
    validation, test: queries whose histories are in train and in past, with the distinct items that followed.
      On `loo-t` their `now_us` is the time of the target.
    candidates, validation_candidates: [I], True for an item that may be recommended; None for all of them.
    targets_sha256: of the sorted lines "user<tab>item", the hash of PROTOCOL.md.
    refit: whether a closed-form or count model is refitted on `past` before the test.
    gap_us: [Q] time from the end of each test history to the first target, or None without a clock.
    """

    name: str
    train: Snapshot
    past: Snapshot
    validation: Holdout | None
    test: Holdout
    candidates: Mask | None
    validation_candidates: Mask | None
    targets_sha256: str
    refit: bool
    gap_us: NDArray[np.int64] | None = None

    @property
    def users(self) -> int:
        """Users that are asked in the test."""
        return len(self.test)

    @property
    def targets(self) -> int:
        """Distinct (user, item) pairs to be found in the test."""
        return len(self.test.target)


@dataclass(frozen=True)
class _Parts:
    """Which events are what, [E] each, beside the events of `_Log`."""

    train: Mask
    past: Mask
    validation: Mask
    test: Mask
    news_only: bool = False
    """Targets are only what the user had not touched before."""
    goal: int | None = None
    """The number of the kind that targets must have; None: every kind."""


@dataclass(frozen=True)
class _Log:
    """All events sorted by (user, board order). row: position in board order, [E]."""

    all: Snapshot
    row: NDArray[np.int64]
    split: pl.Series | None


BOARDS = ("loo", "loo-t", "temporal", "split", "cold")


def board(
    folder: DataFolder, name: str, *, seed: int = 0, goal: str | None = None, repeat: bool = False
) -> Board:
    """Cut `folder` into the board `name`. The seed matters only where validation rows must be drawn.

    goal: only events of this kind can be targets (purchases, say); the others stay in the histories, and an
    item counts as known to a user only by such an event: what was merely looked at can still be bought.
    repeat: also what the person had touched before is a target, on every board.
    Raises UnknownName for a board that does not exist, BadInput where the data lacks what the board needs.
    """
    if name not in BOARDS:
        raise UnknownName("board", name, BOARDS)
    _demand(folder, name)
    log = _log(folder)
    parts = _cutter(name, seed)(log)
    if goal is not None:
        parts = _with_goal(parts, log.all, goal, folder)
    if repeat:
        parts = replace(parts, news_only=False)
    train, past = log.all.keep(parts.train), log.all.keep(parts.past)
    timed = name == "loo-t"
    test, test_rows = _holdout(log, parts, parts.test, past, timed=timed)
    if test is None and goal is not None:
        hint = "choose another board or goal, or collect more of these events"
        raise BadInput(f"board {name!r} has no event of the kind {goal!r} to test on", hint=hint)
    if test is None:
        raise BadInput(f"board {name!r} finds nothing to test on in {folder.path}", hint=_NEEDS[name])
    validation, _ = _holdout(log, parts, parts.validation, train, timed=timed)
    cold = name == "cold"
    return Board(
        name=name,
        train=train,
        past=past,
        validation=validation,
        test=test,
        candidates=_only(test, train.item_count) if cold else None,
        validation_candidates=_only(validation, train.item_count) if cold and validation else None,
        targets_sha256=_targets_hash(test, train),
        refit=name not in ("loo", "loo-t"),
        gap_us=_gaps(log, test, test_rows),
    )


_NEEDS = {
    "loo": "it needs users with three events or more",
    "loo-t": "it needs users with three events or more",
    "temporal": "it needs users with a past who meet new items in the last tenth of the time",
    "split": "it needs rows whose split is 'test', of users that have other rows",
    "cold": "it needs users who touched both ordinary and cold items; try data with more items",
}


def _with_goal(parts: _Parts, events: Snapshot, goal: str, folder: DataFolder) -> _Parts:
    if goal not in events.kinds:
        known = ", ".join(events.kinds)
        raise BadInput(f"no event of {folder.path} has the kind {goal!r}", hint=f"known kinds: {known}")
    number = events.kinds.index(goal)
    wanted = np.asarray(events.kind == number)
    return replace(parts, test=parts.test & wanted, validation=parts.validation & wanted, goal=number)


def _demand(folder: DataFolder, name: str) -> None:
    what, has, needs = folder.path, folder.has_order, "an order: a column timestamp or seq"
    if name in ("loo-t", "temporal"):
        has, needs = folder.has_time, "a shared clock: a column timestamp"
    elif name == "split":
        has, needs = "split" in folder.interactions.columns, "a published split: a column split"
    elif name == "cold":
        return
    if not has:
        raise BadInput(
            f"board {name!r} needs {needs}, and the interactions of {what} have none",
            hint="boards for any data: cold; with a split: split; with an order: loo; with a clock: all",
        )


def _log(folder: DataFolder) -> _Log:
    """Numbers for ids (in sorted order), and one stable sort by user."""
    rows = folder.interactions
    users = Vocabulary.of(rows["user_id"].unique().sort())
    items = Vocabulary.of(rows["item_id"].unique().sort())
    user = users.numbers(rows["user_id"])
    row = np.argsort(user, kind="stable")
    offsets = np.zeros(len(users) + 1, np.int64)
    np.cumsum(np.bincount(user, minlength=len(users)), out=offsets[1:])
    kind, kinds = _kinds(rows)
    return _Log(
        all=Snapshot(
            users=users,
            items=items,
            offsets=offsets,
            item=items.numbers(rows["item_id"])[row],
            value=rows["value"].to_numpy()[row],
            kind=kind[row],
            kinds=kinds,
            time_us=rows["time_us"].to_numpy()[row] if folder.has_time else None,
            ordered=folder.has_order,
        ),
        row=row,
        split=rows["split"] if "split" in rows.columns else None,
    )


def _kinds(rows: pl.DataFrame) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    if "kind" not in rows.columns:
        return np.zeros(rows.height, np.uint8), ("click",)
    kind = rows["kind"].fill_null("click")
    kinds = kind.unique().sort()
    if len(kinds) > 256:
        raise BadInput(f"the column kind has {len(kinds)} different values, at most 256 are allowed")
    return Vocabulary.of(kinds).numbers(kind).astype(np.uint8), tuple(kinds)


def _cutter(name: str, seed: int) -> Callable[[_Log], _Parts]:
    cutters: dict[str, Callable[[_Log], _Parts]] = {
        "loo": _cut_loo,
        "loo-t": _cut_loo,
        "temporal": _cut_temporal,
        "split": lambda log: _cut_split(log, seed),
        "cold": _cut_cold,
    }
    return cutters[name]


def _cut_loo(log: _Log) -> _Parts:
    lengths = np.diff(log.all.offsets)
    from_end = log.all.offsets[1:][log.all.user] - 1 - np.arange(log.all.event_count)
    asked = (lengths >= 3)[log.all.user]
    test, validation = asked & (from_end == 0), asked & (from_end == 1)
    return _Parts(train=~(test | validation), past=~test, validation=validation, test=test)


def _cut_temporal(log: _Log) -> _Parts:
    events = log.all.event_count
    # floats on purpose: the same expression as the independent scorer, so the cuts agree to the row
    train = log.row < math.floor(events * 0.8)
    past = log.row < math.floor(events * 0.9)
    return _Parts(train=train, past=past, validation=past & ~train, test=~past, news_only=True)


def _cut_split(log: _Log, seed: int) -> _Parts:
    part = pl.Series("split", [], pl.String) if log.split is None else log.split.gather(log.row)
    test = (part == "test").fill_null(False).to_numpy()
    past = (part != "test").fill_null(False).to_numpy()  # a row without a split belongs nowhere
    validation = part.is_in(VALIDATION_NAMES).fill_null(False).to_numpy()
    if not validation.any():
        validation = _drawn_pairs(log.all, past, seed)
    return _Parts(train=past & ~validation, past=past, validation=validation, test=test, news_only=True)


def _drawn_pairs(events: Snapshot, past: Mask, seed: int, share: float = 0.1) -> Mask:
    """The events of a seeded `share` of the distinct pairs of `past`, never the whole of a user's past."""
    pair = _pairs(events)
    distinct = pair[past][_first_of_each(pair[past])]
    random = generator(seed, "split", "validation")
    drawn = random.permutation(distinct)[: round(len(distinct) * share)]
    chosen = past & _contained(pair, drawn)
    left = np.bincount(events.user[past & ~chosen], minlength=events.user_count)
    return chosen & (left > 0)[events.user]


def _cut_cold(log: _Log) -> _Parts:
    bucket = cold_buckets(log.all.items)[log.all.item]
    train = bucket >= COLD_VALIDATION_BELOW
    test = bucket < COLD_TEST_BELOW
    return _Parts(train=train, past=train, validation=~train & ~test, test=test)


def cold_buckets(items: Vocabulary) -> NDArray[np.int64]:
    """The bucket 0..99 of each item, [I]: the first 8 hex digits of the id's SHA-256, modulo 100."""
    digests = (hashlib.sha256(text.encode()).hexdigest() for text in items.to_list())
    return np.fromiter((int(digest[:8], 16) % 100 for digest in digests), np.int64, len(items))


def _pairs(events: Snapshot) -> NDArray[np.int64]:
    """One integer per event that names its (user, item), [E]."""
    return events.user.astype(np.int64) * events.item_count + events.item


def _contained(values: NDArray[np.int64], among: NDArray[np.int64]) -> Mask:
    """Which values occur in `among`: by hash, several times faster here than sort and search."""
    return np.asarray(pl.Series(values).is_in(pl.Series(among).unique().implode()).to_numpy())


def _first_of_each(values: NDArray[np.int64]) -> Mask:
    return np.asarray(pl.Series(values).is_first_distinct().to_numpy())


def _holdout(
    log: _Log, parts: _Parts, future: Mask, history: Snapshot, *, timed: bool
) -> tuple[Holdout | None, NDArray[np.int64]]:
    """What followed the histories: users with a past, distinct items in order of time, and their events."""
    events = log.all
    rows = np.flatnonzero(future & (np.diff(history.offsets) > 0)[events.user])
    pair = _pairs(events)
    if parts.news_only:
        known = history if parts.goal is None else history.keep(history.kind == parts.goal)
        rows = rows[~_contained(pair[rows], _pairs(known))]
    rows = rows[_first_of_each(pair[rows])]
    if not len(rows):
        return None, rows
    users, counts = np.unique(events.user[rows], return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    queries = queries_of(history, users)
    if timed and events.time_us is not None:
        queries = replace(queries, now_us=events.time_us[rows[offsets[:-1]]])
    return Holdout(queries=queries, offsets=offsets, target=np.asarray(events.item[rows])), rows


def _gaps(log: _Log, test: Holdout, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    if log.all.time_us is None or test.queries.time_us is None:
        return None
    first = log.all.time_us[rows[test.offsets[:-1]]]
    return np.asarray(first - test.queries.time_us[test.queries.offsets[1:] - 1])


def _only(holdout: Holdout, items: int) -> Mask:
    mask = np.zeros(items, bool)
    mask[holdout.target] = True
    return mask


def _targets_hash(test: Holdout, data: Snapshot) -> str:
    """SHA-256 of the sorted lines "user<tab>item<newline>" (UTF-8, code point order)."""
    users = data.users.series("user_id").gather(np.repeat(test.queries.user, np.diff(test.offsets)))
    lines = pl.DataFrame([users, data.items.series("item_id").gather(test.target)]).select(
        line=pl.format("{}\t{}\n", "user_id", "item_id")
    )
    return hashlib.sha256("".join(lines["line"].sort()).encode()).hexdigest()

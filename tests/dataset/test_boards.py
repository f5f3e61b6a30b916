"""Boards against an independent, row by row reading of the protocol, and against the published hashes."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.dataset.folder import read_folder
from slipstream.dataset.queries import Holdout
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.splits import Board, board
from slipstream.errors import BadInput, UnknownName

SHARED = Path(
    os.environ.get("SLIPSTREAM_SHARED", Path(__file__).parents[3] / "shared")  # beside the checkout
)


@dataclass
class Event:
    user: str
    item: str
    time: int
    seq: int
    split: str | None
    row: int


@dataclass
class Cut:
    """The plain reading of a board: lists of events, targets per user in order."""

    train: list[Event]
    past: list[Event]
    validation: dict[str, list[str]]
    test: dict[str, list[str]]
    candidates: set[str] = field(default_factory=set)


def follow(known: list[Event], future: list[Event], *, news_only: bool) -> dict[str, list[str]]:
    people, pairs = {e.user for e in known}, {(e.user, e.item) for e in known}
    targets: dict[str, list[str]] = {}
    for e in future:
        if e.user in people and not (news_only and (e.user, e.item) in pairs):
            mine = targets.setdefault(e.user, [])
            if e.item not in mine:
                mine.append(e.item)
    return targets


def bucket(item: str) -> int:
    return int(hashlib.sha256(item.encode()).hexdigest()[:8], 16) % 100


def plain_cut(events: list[Event], name: str) -> Cut:
    events = sorted(events, key=lambda e: (e.time, e.seq, e.row))
    if name in ("loo", "loo-t"):
        mine: dict[str, list[Event]] = {}
        for e in events:
            mine.setdefault(e.user, []).append(e)
        test = [m[-1] for m in mine.values() if len(m) >= 3]
        valid = [m[-2] for m in mine.values() if len(m) >= 3]
        past = [e for e in events if e not in test]
        train = [e for e in past if e not in valid]
        return Cut(train, past, {e.user: [e.item] for e in valid}, {e.user: [e.item] for e in test})
    if name == "temporal":
        a, b = math.floor(len(events) * 0.8), math.floor(len(events) * 0.9)
        train, valid, past, test = events[:a], events[a:b], events[:b], events[b:]
    elif name == "split":
        train = [e for e in events if e.split == "train"]
        valid = [e for e in events if e.split == "valid"]
        past = [e for e in events if e.split in ("train", "valid")]
        test = [e for e in events if e.split == "test"]
    else:
        train = past = [e for e in events if bucket(e.item) >= 25]
        valid = [e for e in events if 15 <= bucket(e.item) < 25]
        test = [e for e in events if bucket(e.item) < 15]
    news = name != "cold"
    targets = follow(past, test, news_only=news)
    hopes = follow(train, valid, news_only=news)
    return Cut(train, past, hopes, targets, {i for items in targets.values() for i in items})


def written(events: list[Event], folder: Path, *, clock: bool = True, order: bool = True) -> Path:
    table: dict[str, list[Any]] = {
        "user_id": [e.user for e in events],
        "item_id": [e.item for e in events],
        "split": [e.split for e in events],
    }
    if clock:
        table["timestamp"] = [e.time for e in events]
    if order:
        table["seq"] = [e.seq for e in events]
    folder.mkdir(exist_ok=True)
    pl.DataFrame(table, schema_overrides={"split": pl.String}).write_parquet(folder / "interactions.parquet")
    return folder


def histories(events: list[Event]) -> dict[str, list[str]]:
    mine: dict[str, list[str]] = {}
    for e in events:
        mine.setdefault(e.user, []).append(e.item)
    return mine


def named(snapshot: Snapshot) -> dict[str, list[str]]:
    pairs = {snapshot.users[u]: snapshot.items.texts(snapshot.history(u)) for u in range(snapshot.user_count)}
    return {user: items for user, items in pairs.items() if items}


def answers(holdout: Holdout | None, data: Snapshot) -> dict[str, list[str]]:
    if holdout is None:
        return {}
    users = data.users.texts(holdout.queries.user)
    return {u: data.items.texts(holdout.targets(q)) for q, u in enumerate(users)}


def asked_with(holdout: Holdout, data: Snapshot) -> dict[str, list[str]]:
    users = data.users.texts(holdout.queries.user)
    return {u: data.items.texts(holdout.queries.history(q)) for q, u in enumerate(users)}


USERS = st.sampled_from(["u1", "u2", "ü", "10", "9"])
ITEMS = st.sampled_from([f"i{n}" for n in range(30)])


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    times = st.integers(0, 9)  # few values: many ties
    splits = st.sampled_from(["train", "train", "valid", "test"])
    row = st.tuples(USERS, ITEMS, times, st.integers(0, 3), splits)
    rows = draw(st.lists(row, min_size=1, max_size=40))
    return [Event(*values, row=number) for number, values in enumerate(rows)]


@pytest.mark.parametrize("name", ["loo", "loo-t", "temporal", "split", "cold"])
@given(events=logs())
@settings(max_examples=60, deadline=None)
def test_a_board_is_what_the_protocol_says(name: str, events: list[Event]) -> None:
    expected = plain_cut(events, name)
    with tempfile.TemporaryDirectory() as place:
        folder = read_folder(written(events, Path(place)))
    if not expected.test:
        with pytest.raises(BadInput, match="nothing to test on"):
            board(folder, name)
        return
    found = board(folder, name)
    ordered = lambda cut: histories(sorted(cut, key=lambda e: (e.time, e.seq, e.row)))  # noqa: E731
    assert answers(found.test, found.past) == expected.test
    assert named(found.past) == ordered(expected.past)
    assert found.targets == sum(map(len, expected.test.values()))
    assert found.users == len(expected.test)
    assert found.refit == (name not in ("loo", "loo-t"))
    lines = sorted(f"{u}\t{i}\n" for u, items in expected.test.items() for i in items)
    assert found.targets_sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    past = named(found.past)
    assert asked_with(found.test, found.past) == {u: past[u] for u in expected.test}
    if name == "split" and not any(e.split == "valid" for e in events):
        return  # then the validation is drawn: the next tests look at that
    assert named(found.train) == ordered(expected.train)
    assert answers(found.validation, found.train) == expected.validation
    if name == "cold":
        assert found.candidates is not None
        assert set(found.past.items.texts(np.flatnonzero(found.candidates))) == expected.candidates
    else:
        assert found.candidates is None


@given(events=logs())
@settings(max_examples=40, deadline=None)
def test_every_board_speaks_one_vocabulary_of_all_ids(events: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = read_folder(written(events, Path(place)))
    try:
        found = board(folder, "cold")
    except BadInput:
        return
    assert found.train.items.to_list() == sorted({e.item for e in events})
    assert found.train.users.to_list() == sorted({e.user for e in events})
    assert found.past.items is found.train.items


def test_loo_t_asks_at_the_time_of_the_target_and_loo_does_not(tmp_path: Path) -> None:
    events = [Event("a", f"i{n}", t, 0, None, n) for n, t in enumerate([1, 5, 9, 20])]
    folder = read_folder(written(events, tmp_path))
    timed = board(folder, "loo-t")
    assert timed.test.queries.now_us is not None
    assert timed.validation is not None
    assert timed.validation.queries.now_us is not None
    assert timed.test.queries.now_us.tolist() == [20_000_000]
    assert timed.validation.queries.now_us.tolist() == [9_000_000]
    assert timed.gap_us is not None
    assert timed.gap_us.tolist() == [11_000_000]
    assert board(folder, "loo").test.queries.now_us is None


def split_only(tmp_path: Path, seed: int = 0) -> Board:
    rows = [(f"u{u}", f"i{i}") for u in range(20) for i in range(12) if (u * 7 + i * 5) % 3]
    events = [Event(u, i, 0, 0, "test" if n % 5 == 4 else "train", n) for n, (u, i) in enumerate(rows)]
    events += [Event("lonely", "i0", 0, 0, "train", len(rows))]
    return board(read_folder(written(events, tmp_path, clock=False, order=False)), "split", seed=seed)


def test_without_valid_rows_a_seeded_tenth_of_the_pairs_validates(tmp_path: Path) -> None:
    found = split_only(tmp_path)
    assert found.validation is not None
    drawn = len(found.validation.target)
    assert drawn == pytest.approx(found.past.event_count / 10, abs=1)
    assert found.train.event_count + drawn == found.past.event_count
    assert not found.train.ordered
    assert found.gap_us is None
    again, other = split_only(tmp_path), split_only(tmp_path, seed=1)
    assert again.validation is not None
    assert other.validation is not None
    assert again.validation.target.tolist() == found.validation.target.tolist()
    assert other.validation.target.tolist() != found.validation.target.tolist()


def test_drawing_never_takes_the_whole_past_of_a_user(tmp_path: Path) -> None:
    for seed in range(20):
        found = split_only(tmp_path, seed)
        assert named(found.train).keys() == named(found.past).keys()


def test_boards_that_need_an_order_or_a_clock_say_so(tmp_path: Path) -> None:
    events = [Event("a", f"i{n}", n, n, "train", n) for n in range(4)]
    unordered = read_folder(written(events, tmp_path / "none", clock=False, order=False))
    sequence = read_folder(written(events, tmp_path / "seq", clock=False))
    for name in ("loo", "loo-t", "temporal"):
        with pytest.raises(BadInput, match=r"needs an order|needs a shared clock"):
            board(unordered, name)
    for name in ("loo-t", "temporal"):
        with pytest.raises(BadInput, match="needs a shared clock: a column timestamp"):
            board(sequence, name)
    assert board(sequence, "loo").test.queries.time_us is None
    with pytest.raises(BadInput, match="nothing to test on"):
        board(unordered, "split")
    with pytest.raises(UnknownName, match="temporel") as unknown:
        board(unordered, "temporel")
    assert unknown.value.hint.startswith("known: temporal")


def test_data_without_a_split_has_no_split_board(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": ["a"], "item_id": ["b"]}).write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(BadInput, match="a column split"):
        board(read_folder(tmp_path), "split")


PUBLISHED = [
    ("ml-100k", "loo", 943, 943, "520accf3a06b90c0"),
    ("ml-100k", "temporal", 90, 2_886, "9fb6187fcff9bb14"),
    ("ml-1m", "loo", 6_040, 6_040, "51bc9a443f9e73b1"),
    ("ml-1m", "loo-t", 6_040, 6_040, "51bc9a443f9e73b1"),
    ("ml-1m", "temporal", 1_180, 95_812, "9e6067689fb5d01a"),
    ("ml-1m-kg", "split", 6_040, 185_241, "6019f0cd14350414"),
    ("ml-1m-kg", "cold", 6_032, 149_993, "3fa00bb9b5553c03"),
    ("amazon-beauty", "loo", 22_363, 22_363, "35847c38c18af216"),
    ("amazon-sports", "loo", 35_598, 35_598, "0a8c28e1bba2d70a"),
    ("yelp", "loo", 30_431, 30_431, "66ed130a0aec6c5b"),
    ("amazon-video-games", "loo", 30_901, 30_901, "fb8da0cbf6a20625"),
]


@pytest.mark.parametrize(("data", "name", "users", "targets", "digest"), PUBLISHED)
def test_the_hash_of_the_targets_is_the_published_one(
    data: str, name: str, users: int, targets: int, digest: str
) -> None:
    place = SHARED / "data" / data
    if not place.is_dir():
        pytest.skip(f"{data} is not here: point SLIPSTREAM_SHARED at the folder that holds data/{data}")
    found = board(read_folder(place), name)
    assert (found.users, found.targets, found.targets_sha256[:16]) == (users, targets, digest)

"""Items added after the release was made: kept in the home, recommendable at once.

`AddedItems` is the log on disk (`catalogue/added.jsonl`, one JSON row per line, the last row of an id
counts); the next `prepare` reads it as part of the catalogue. `Shelf` is a release's catalogue with the log
laid over.

A new item has no score of its own yet, so it borrows one: the mean of the model's scores of its catalogue
neighbours, weighted by shared attributes, drawn towards the catalogue's mean by `PRIOR`:

    score(n) = (Σ_j w_nj s_j + PRIOR · mean(s)) / (Σ_j w_nj + PRIOR),  j over the NEIGHBOURS most alike items

An item that shares nothing with the catalogue gets the catalogue's mean: nothing is known of it, which is
what the number says.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.dataset.vocabulary import UNKNOWN, Vocabulary
from slipstream.recommend.catalogue import Catalogue, attributes_of, title_of

ADDED_FILE = "added.jsonl"
NEIGHBOURS = 20
PRIOR = 0.5
MOST_NEW_ITEMS = 10_000
"""The latest so many new items are candidates; older ones wait for the next release."""


class AddedItems:
    """The log of added rows. Safe with several processes: appends are locked, readers follow the end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ADDED_FILE

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Durable when it returns. Raises OSError where the disk refuses; then nothing was added."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            end = os.fstat(handle).st_size
            torn = end > 0 and os.pread(handle, 1, end - 1) != b"\n"  # a killed process left half a line
            try:
                _write_all(handle, b"\n" + text if torn else text)
                os.fsync(handle)
            except OSError:
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    os.ftruncate(handle, end)
                raise
        finally:
            os.close(handle)

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, start: int = 0, stop: int | None = None) -> tuple[list[dict[str, Any]], int]:
        """Rows from byte `start` on, and where to go on. Half a line at the end is left for later."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(start)
                text = stream.read() if stop is None else stream.read(stop - start)
        except FileNotFoundError:
            return [], 0
        whole = text[: text.rfind(b"\n") + 1]
        rows = [row for line in whole.splitlines() if (row := _row(line)) is not None]
        return rows, start + len(whole)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None  # the torn line of a killed process was never acknowledged
    return row if isinstance(row, dict) and isinstance(row.get("item_id"), str) else None


MASKS_KEPT = 128
NAMES_KEPT = 100_000


@dataclass(frozen=True)
class Newcomer:
    """A new item and its likeness to the catalogue: neighbours [N'] and weights [N'], at most NEIGHBOURS."""

    item_id: str
    title: str
    attributes: dict[str, tuple[str, ...]]
    neighbours: NDArray[np.int32]
    weights: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Shelf:
    """All items as they are now. Numbers 0 … I-1 are the release's, I … I+N-1 the newcomers'. Immutable."""

    items: Vocabulary
    catalogue: Catalogue
    newcomers: tuple[Newcomer, ...] = ()
    changed: Mapping[int, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    titles: Mapping[int, str] = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)
    """`changed` and `titles` hold new values of known items, `places` the numbers of the newcomers."""
    _masks: dict[tuple[str, tuple[str, ...]], NDArray[np.bool_]] = field(
        default_factory=dict, init=False, repr=False
    )
    _names: dict[int, tuple[str, str]] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.items) + len(self.newcomers)

    def number(self, item_id: str) -> int:
        number = self.items.number(item_id)
        return number if number >= 0 else self.places.get(item_id, UNKNOWN)

    def numbers(self, item_ids: Iterable[str]) -> NDArray[np.int64]:
        """The numbers of the ids that exist; the others are left out."""
        found = (self.number(item_id) for item_id in item_ids)
        return np.fromiter((n for n in found if n >= 0), np.int64)

    def item_id(self, number: int) -> str:
        known = len(self.items)
        return self.items[number] if number < known else self.newcomers[number - known].item_id

    def named(self, number: int) -> tuple[str, str]:
        """(item id, title); remembered, because the same items are shown again and again."""
        if (found := self._names.get(number)) is None:
            if len(self._names) >= NAMES_KEPT:
                self._names.clear()
            found = self._names[number] = (self.item_id(number), self.title(number))
        return found

    def title(self, number: int) -> str:
        """What people read; the id where the catalogue has no title."""
        known = len(self.items)
        if number >= known:
            return self.newcomers[number - known].title
        return self.titles.get(number) or self.catalogue.titles[number] or self.items[number]

    @cached_property
    def columns(self) -> frozenset[str]:
        """Every attribute that some item has."""
        later = [new.attributes for new in self.newcomers] + list(self.changed.values())
        return self.catalogue.columns.union(*later)

    def attributes(self, number: int) -> dict[str, tuple[str, ...]]:
        known = len(self.items)
        if number >= known:
            return self.newcomers[number - known].attributes
        return {**self.catalogue.attributes(number), **self.changed.get(number, {})}

    def having(self, column: str, texts: tuple[str, ...]) -> NDArray[np.bool_]:
        """[I + N], True where the item has one of the values in `column`. Shared, hence read-only."""
        if (found := self._masks.get((column, texts))) is not None:
            return found
        if len(self._masks) >= MASKS_KEPT:
            self._masks.clear()
        mask = np.concatenate(
            [
                self.catalogue.having(column, texts),
                np.array([_has(new.attributes, column, texts) for new in self.newcomers], bool),
            ]
        )
        for number, attributes in self.changed.items():
            if column in attributes:
                mask[number] = _has(attributes, column, texts)
        mask.setflags(write=False)
        self._masks[column, texts] = mask
        return mask

    def new_scores(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N] borrowed scores of the newcomers from the model's scores [I]; NaN if no item has a score."""
        finite = np.isfinite(scores)
        if not self.newcomers or not finite.any():
            return np.full(len(self.newcomers), np.nan, np.float32)
        return self.borrowed(lambda items: scores[items], float(scores[finite].mean(dtype=np.float64)))

    def borrowed(
        self, scores_of: Callable[[NDArray[np.int32]], NDArray[np.float32]], mean: float
    ) -> NDArray[np.float32]:
        """[N] `new_scores`, from the scores of some items and the mean of all."""
        found = [_borrowed(new.weights, scores_of(new.neighbours), mean) for new in self.newcomers]
        return np.array(found, np.float32)

    def alike(self, number: int) -> NDArray[np.float32]:
        """[I + N] cosine of attributes with one item; -1 for itself."""
        attributes = self.attributes(number)
        mine = {(column, text) for column, texts in attributes.items() for text in texts}
        new = [_overlap(mine, other.attributes) for other in self.newcomers]
        likeness = np.concatenate([self.catalogue.likeness(attributes), np.array(new, np.float32)])
        likeness[number] = -1.0
        return likeness

    def with_rows(self, rows: Sequence[Mapping[str, Any]], *, only_new: bool = False) -> Shelf:
        """This shelf with rows laid over: values of known items replaced, new items put at the end.

        only_new: leave the known items as they are.
        """
        changed, titles = dict(self.changed), dict(self.titles)
        fresh = {new.item_id: new for new in self.newcomers}
        for row in rows:
            number = self.items.number(row["item_id"])
            if number >= 0 and only_new:
                continue
            if number >= 0:
                changed[number] = {**changed.get(number, {}), **self._columns_of(row)}
                if title := title_of(row):
                    titles[number] = title
            else:
                fresh.pop(row["item_id"], None)
                fresh[row["item_id"]] = self._newcomer(row)
        latest = tuple(fresh.values())[-MOST_NEW_ITEMS:]
        places = {new.item_id: len(self.items) + place for place, new in enumerate(latest)}
        return replace(self, newcomers=latest, changed=changed, titles=titles, places=places)

    def _columns_of(self, row: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """The attributes of a row; a column given empty is kept empty, so that a value can be taken away."""
        emptied: dict[str, tuple[str, ...]] = {column: () for column in row if column != "item_id"}
        return {**emptied, **attributes_of(row, self.catalogue.separators)}

    def _newcomer(self, row: Mapping[str, Any]) -> Newcomer:
        attributes = attributes_of(row, self.catalogue.separators)
        likeness = self.catalogue.likeness(attributes)
        alike = np.flatnonzero(likeness > 0).astype(np.int32)
        best = alike[np.argsort(-likeness[alike], kind="stable")[:NEIGHBOURS]]
        return Newcomer(row["item_id"], title_of(row) or row["item_id"], attributes, best, likeness[best])


def _has(attributes: Mapping[str, tuple[str, ...]], column: str, texts: tuple[str, ...]) -> bool:
    return not set(texts).isdisjoint(attributes.get(column, ()))


def _borrowed(weights: NDArray[np.float32], scores: NDArray[np.float32], mean: float) -> float:
    """Of one newcomer: weights and scores [N'] of its neighbours, NaN where the model says nothing."""
    usable = np.isfinite(scores)
    weights = weights[usable].astype(np.float64)
    total = float(weights @ scores[usable])
    return (total + PRIOR * mean) / (float(weights.sum()) + PRIOR)


def _overlap(mine: set[tuple[str, str]], attributes: Mapping[str, tuple[str, ...]]) -> float:
    """Cosine of two sets of values, unweighted: newcomers are outside the catalogue's rarity weights."""
    other = {(column, text) for column, texts in attributes.items() for text in texts}
    shared = len(mine & other)
    return shared / float(np.sqrt(len(mine) * len(other))) if shared else 0.0


class LiveShelf:
    """The shelf of a release that follows the log: a row that any process added is in the next look."""

    def __init__(self, shelf: Shelf, added: AddedItems | None, folded: int = 0) -> None:
        """folded: bytes of the log that were there when the release was made. The release's own items hold
        what those rows said, or what a later catalogue said."""
        self._released, self._shelf, self._added, self._folded = shelf, shelf, added, folded
        self._read = 0
        self._lock = threading.Lock()

    def now(self) -> Shelf:
        """The shelf with every acknowledged row. Cost: one look at the log's size when nothing was added."""
        if self._added is None or self._added.size() == self._read:
            return self._shelf
        with self._lock:
            if self._added.size() < max(self._read, self._folded):  # somebody put another log in its place
                self._shelf, self._read, self._folded = self._released, 0, 0
            if self._read < self._folded:
                older, self._read = self._added.read(self._read, self._folded)
                self._shelf = self._shelf.with_rows(older, only_new=True)
            rows, self._read = self._added.read(self._read)
            if rows:
                self._shelf = self._shelf.with_rows(rows)
            return self._shelf

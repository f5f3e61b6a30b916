"""Outside ids to numbers while a log streams by: 0, 1, 2 … in the order of first appearance.

A hash table in NumPy: keys are looked up and inserted a batch at a time, so no Python object is made per
event (Polars categoricals give the same numbers, and cost about five times the processor time with a
million ids). Linear probing at a load of one half at most.

Exact, not almost: whole-number ids are mixed by a bijection, so equal keys are equal ids. Texts are told
apart by two 64-bit hashes; with 10^8 ids the chance that any two are mixed up is 10^16 / 2^129 ≈ 10^-23.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.errors import BadInput

Keys = NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: multiplying by an odd number is a bijection
_SHIFT = np.uint64(1 << 63)
_EMPTY = np.uint64(0)
_FREE, _FIRST_SIZE_LOG2, _GROWTH_LOG2 = -1, 12, 2
_PIECE = 1 << 17


class Numbering:
    """Numbers for the ids of one column. `ids()` gives the texts in the order of their numbers."""

    def __init__(self) -> None:
        self._count = 0
        self._found: list[pl.Series] = []
        self._textual: bool | None = None
        self._allocate(_FIRST_SIZE_LOG2)

    def __len__(self) -> int:
        return self._count

    def numbers(self, column: pl.Series) -> NDArray[np.int32]:
        """The number of each id of `column` (text or whole numbers, none missing), [len(column)] int32.

        Expected O(len(column)), best with batches that fit the cache (some 100,000 rows).
        Raises BadInput if a column of whole numbers turns into text or back.
        """
        key, check = self._hash(column)
        self._make_room(len(column))
        slots = self._place(key, check)
        numbers = self._number[slots]
        new = np.flatnonzero(numbers == _FREE)
        if len(new):
            self._count_new(slots[new], new, column)
            numbers[new] = self._number[slots[new]]
        return numbers

    def ids(self) -> pl.Series:
        """The ids as text, in the order of their numbers."""
        if not self._found:
            return pl.Series("id", [], pl.String)
        return pl.concat(self._found).cast(pl.String).alias("id")

    def in_text_order(self) -> tuple[pl.Series, NDArray[np.int32]]:
        """The ids sorted as text (whole numbers too), and the number of each, [I].

        Sorting texts and looking their numbers up takes a fourth of the time of a sort with an index.
        """
        texts = self.ids().sort()
        column = texts if self._textual else texts.cast(pl.Int64)
        numbers = np.empty(len(texts), np.int32)
        for start in range(0, len(texts), _PIECE):
            key, check = self._hash(column.slice(start, _PIECE))
            numbers[start : start + _PIECE] = self._number[self._place(key, check)]
        return texts, numbers

    def _hash(self, column: pl.Series) -> tuple[Keys, Keys | None]:
        textual = column.dtype == pl.String
        if self._textual not in (None, textual):
            raise BadInput(f"the ids in {column.name!r} are partly text and partly whole numbers")
        self._textual = textual
        if textual:
            # multiplied, as the place comes from the highest bits and short texts hash alike there
            return np.maximum(column.hash(1).to_numpy() * _ODD, 1), column.hash(2).to_numpy()
        key = column.cast(pl.Int64).to_numpy().view(np.uint64) + _SHIFT
        if not key.all():  # this one id would look like an empty place
            raise BadInput(f"the id {-(1 << 63)} in {column.name!r} cannot be used", hint="pass ids as text")
        return key * _ODD, None

    def _allocate(self, size_log2: int) -> None:
        self._size_log2 = size_log2
        self._key = np.zeros(1 << size_log2, np.uint64)
        self._check = np.zeros(1 << size_log2, np.uint64)
        self._number = np.full(1 << size_log2, _FREE, np.int32)

    def _make_room(self, arriving: int) -> None:
        while 2 * (self._count + arriving) > 1 << self._size_log2:
            live = np.flatnonzero(self._number != _FREE)
            key, check, number = self._key[live], self._check[live], self._number[live]
            self._allocate(self._size_log2 + _GROWTH_LOG2)
            self._number[self._place(key, check if self._textual else None)] = number

    def _place(self, key: Keys, check: Keys | None) -> NDArray[np.int64]:
        """The place of each key in the table; keys that were not there take the next free one."""
        slots = (key >> np.uint64(64 - self._size_log2)).astype(np.int64)
        left = np.flatnonzero(self._differs(slots, key, check))
        last = (1 << self._size_log2) - 1
        while len(left):
            at, mine = slots[left], key[left]
            own = None if check is None else check[left]
            free = self._key[at] == _EMPTY
            # several keys may want one place: the last one written has it, the others go on
            self._key[at[free]] = mine[free]
            if own is not None:
                self._check[at[free]] = own[free]
            lost = self._differs(at, mine, own)
            left = left[lost]
            slots[left] = (at[lost] + 1) & last
        return slots

    def _differs(self, slots: NDArray[np.int64], key: Keys, check: Keys | None) -> NDArray[np.bool_]:
        differs: NDArray[np.bool_] = self._key[slots] != key
        if check is not None:
            differs |= self._check[slots] != check
        return differs

    def _count_new(self, slots: NDArray[np.int64], rows: NDArray[np.int64], column: pl.Series) -> None:
        """Number the ids at `slots`, which appear at `rows` of `column` and have no number yet."""
        order = np.arange(len(slots), dtype=np.int32)
        self._number[slots[::-1]] = order[::-1]  # backwards, so the first appearance stays
        first = np.flatnonzero(self._number[slots] == order)
        self._number[slots[first]] = np.arange(self._count, self._count + len(first), dtype=np.int32)
        self._count += len(first)
        self._found.append(column.gather(rows[first]))

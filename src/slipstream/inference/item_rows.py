"""A packed item table that is read row by row: nowhere is all of it float32.

A row is that of `Packed.unpack`, times the item's factor where there is one (a table of unit vectors is the
same codes with other lengths); each product is rounded to float32. `packed_rows.h` does the same in C, bit by
bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.inference.packed_weights import Form, Packed

PART = 1 << 14  # rows that are float32 at a time: 16 MB at 256 numbers
FORMS: tuple[Form, ...] = ("float32", "bfloat16", "int8", "int4", "codes", "mixed")
"""By their number in packed_rows.h."""


class ItemRows:
    """[I, D] float32 to look at, fewer bits to hold. Indexed by a slice or by item numbers of any shape."""

    dtype = np.dtype(np.float32)

    def __init__(self, packed: Packed, factor: NDArray[np.float32] | None = None) -> None:
        self._packed = packed if packed.place is not None else packed.to_read()
        self.factor = factor  # [I]
        self.shape = (packed.count, packed.columns or packed.codes.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | NDArray[np.integer]) -> NDArray[np.float32]:
        rows = self._packed.rows(index)
        return rows if self.factor is None else np.asarray(rows * self.factor[index][..., None])

    def arrays(self) -> list[NDArray[Any]]:
        """All that is held: codes, and scales, places and factors where there are some."""
        return [*self._packed.stored(), *(a for a in (self._packed.place, self.factor) if a is not None)]

    def parts(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All rows in order, some at a time."""
        for start in range(0, len(self), PART):
            part = slice(start, min(start + PART, len(self)))
            yield part, self[part]

    def products(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """[Q, I] of queries [Q, D], in float32."""
        found = np.empty((len(queries), len(self)), np.float32)
        for part, rows in self.parts():
            np.matmul(queries, rows.T, out=found[:, part])
        return found

    def with_unit_length(self, times: float) -> ItemRows:
        """The same directions, each row of length `times`; a row of zeros stays one."""
        factor = np.empty(len(self), np.float32)
        for part, rows in self.parts():
            length = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
            factor[part] = times / np.maximum(length, 1e-12)
        return ItemRows(self._packed, factor)

    def for_kernel(self) -> tuple[int, NDArray[Any], Any, NDArray[np.float32] | None]:
        """What packed_rows.h wants: the form's number, codes, scales as float32 and factors.

        Of mixed rows: their places, and codes and scales of both kinds.
        """
        packed = self._packed
        if packed.parts is not None and packed.place is not None:
            both = tuple(a for part in packed.parts for a in (part.codes, part.scale))
            return FORMS.index(packed.form), packed.place, both, self.factor
        return FORMS.index(packed.form), packed.codes, packed.scale, self.factor


def rows_of(packed: Packed) -> NDArray[np.float32] | ItemRows:
    """The table to look rows up in: itself where it is float32."""
    return packed.codes if packed.form == "float32" else ItemRows(packed)

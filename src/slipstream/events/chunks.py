"""Rows on their way in: raw columns, where each row stood, and the lines that were no rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

SHOWN_CHARACTERS = 300  # of a bad row


@dataclass(frozen=True)
class Fault:
    """A line that is no row: where, why, and how it begins."""

    line: int
    code: str
    detail: str
    row: str


@dataclass(frozen=True)
class Chunk:
    """Rows as raw columns; `lines[r]` is where row r stands, `texts[r]` what stood there."""

    frame: pl.DataFrame
    lines: NDArray[np.int64]  # [rows]
    texts: Sequence[bytes | str]  # [rows]
    faults: list[Fault] = field(default_factory=list)

    def fault(self, row: int, code: str, detail: str) -> Fault:
        return Fault(int(self.lines[row]), code, detail, shown(self.texts[row]))


def shown(row: bytes | str) -> str:
    """A row as it is shown to people: text, shortened, unreadable bytes marked."""
    text = row[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace") if isinstance(row, bytes) else row
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"

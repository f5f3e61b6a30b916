"""Titles and attribute values of a release's items, as memory-mapped arrays: what filters and words read.

An attribute value is text: lists give one value per entry, text is split where the column is a list in text
(`Drama|War`), numbers and booleans are written as JSON writes them. Knows dense item numbers only; items
added later are in newcomers.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.graph.columns import find_separator

LONGEST_VALUE = 120
"""Longer text is prose, not a value that two items share; it stays out of the release."""
TITLE_COLUMNS = ("title", "name", "label")
_SEPARATOR = "\x1f"


def value_texts(value: Any, separator: str | None = None) -> tuple[str, ...]:
    """The attribute values in one cell: distinct, in order. None, NaN, prose and nested objects give none."""
    if value is None or isinstance(value, Mapping):
        return ()
    if isinstance(value, list | tuple | pl.Series):
        return tuple(dict.fromkeys(text for entry in value for text in value_texts(entry)))
    if isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, float):
        return (f"{value:g}",) if np.isfinite(value) else ()
    parts = (part.strip() for part in (str(value).split(separator) if separator else [str(value)]))
    return tuple(dict.fromkeys(part for part in parts if part and len(part) <= LONGEST_VALUE))


def title_of(row: Mapping[str, Any]) -> str | None:
    """The first filled title column of a row."""
    for column in TITLE_COLUMNS:
        if row.get(column) not in (None, ""):
            return str(row[column])
    return None


@dataclass(frozen=True)
class Catalogue:
    """Item i has the values `value[offsets[i]:offsets[i+1]]`; a value is `column<unit separator>text`."""

    titles: Vocabulary  # I labels, not unique; "" where the catalogue is silent
    values: Vocabulary  # V
    offsets: NDArray[np.int64]  # [I + 1]
    value: NDArray[np.int32]  # [cells]
    separators: Mapping[str, str] = field(default_factory=dict)  # of the columns that are lists in text

    @classmethod
    def of(cls, items: Vocabulary, frame: pl.DataFrame | None, id_column: str = "item_id") -> Catalogue:
        """From a frame with one row per item (the last row of an id counts). O(cells)."""
        titles = [""] * len(items)
        cells: list[tuple[str, ...]] = [()] * len(items)
        separators = {} if frame is None else _separators(frame, id_column)
        for row in frame.iter_rows(named=True) if frame is not None else ():
            number = items.number(str(row[id_column]))
            if number >= 0:
                titles[number] = title_of(row) or ""
                cells[number] = tuple(_tokens(row, separators, id_column))
        values = Vocabulary.of(sorted({token for tokens in cells for token in tokens}))
        offsets = np.zeros(len(items) + 1, np.int64)
        np.cumsum([len(tokens) for tokens in cells], out=offsets[1:])
        flat = [token for tokens in cells for token in tokens]
        return cls(Vocabulary.of(titles), values, offsets, values.numbers(flat), separators)

    def __len__(self) -> int:
        return len(self.titles)

    @cached_property
    def columns(self) -> frozenset[str]:
        return frozenset(token.partition(_SEPARATOR)[0] for token in self.values.to_list())

    @cached_property
    def _inverse(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Items by value: offsets [V + 1] and items [cells]."""
        owner = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))
        order = np.argsort(self.value, kind="stable")
        counts = np.bincount(self.value, minlength=len(self.values))
        return np.concatenate([[0], np.cumsum(counts)]), owner[order]

    def having(self, column: str, texts: Iterable[str]) -> NDArray[np.bool_]:
        """[I], True where the item has one of the values in `column`. O(I + matches)."""
        mask = np.zeros(len(self), bool)
        offsets, items = self._inverse
        for text in texts:
            number = self.values.number(f"{column}{_SEPARATOR}{text}")
            if number >= 0:
                mask[items[offsets[number] : offsets[number + 1]]] = True
        return mask

    def attributes(self, item: int) -> dict[str, tuple[str, ...]]:
        """{column: values} of one item."""
        found: dict[str, tuple[str, ...]] = {}
        for number in self.value[self.offsets[item] : self.offsets[item + 1]]:
            column, _, text = self.values[int(number)].partition(_SEPARATOR)
            found[column] = (*found.get(column, ()), text)
        return found

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """[V] rarity of each value, log(1 + I / items that have it); a value of one item still counts."""
        frequency = np.maximum(np.bincount(self.value, minlength=len(self.values)), 1)
        return np.log1p(len(self) / frequency).astype(np.float32)

    @cached_property
    def matrix(self) -> sp.csr_matrix:
        """[I, V] float32: rarity weights, rows of unit length or empty."""
        cells = self.weights[self.value]
        matrix = sp.csr_matrix((cells, self.value, self.offsets), shape=(len(self), len(self.values)))
        length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix.data = matrix.data / np.repeat(np.where(length > 0, length, 1), np.diff(self.offsets))
        return matrix

    def likeness(self, attributes: Mapping[str, tuple[str, ...]]) -> NDArray[np.float32]:
        """[I] cosine between the given attributes and each item's, 0 where nothing is shared. O(cells)."""
        tokens = [f"{column}{_SEPARATOR}{text}" for column, texts in attributes.items() for text in texts]
        known = self.values.numbers(tokens)
        known = np.unique(known[known >= 0])
        row = np.zeros(len(self.values), np.float32)
        row[known] = self.weights[known]
        length = float(np.sqrt(row @ row))
        return np.asarray(self.matrix @ (row / length if length else row), np.float32)

    def write(self, writer: ArtifactWriter) -> None:
        self.titles.write(writer, "titles")
        self.values.write(writer, "values")
        writer.array("offsets", self.offsets)
        writer.array("value", self.value)
        writer.json("separators", dict(self.separators))

    @classmethod
    def read(cls, artifact: Artifact) -> Catalogue:
        return cls(
            titles=Vocabulary.read(artifact, "titles"),
            values=Vocabulary.read(artifact, "values"),
            offsets=artifact.array("offsets"),
            value=artifact.array("value"),
            separators=artifact.json("separators"),
        )


def attributes_of(
    row: Mapping[str, Any], separators: Mapping[str, str], id_column: str = "item_id"
) -> dict[str, tuple[str, ...]]:
    """{column: values} of a row, without its id and title."""
    skipped = {id_column, *TITLE_COLUMNS}
    found = {
        column: value_texts(cell, separators.get(column))
        for column, cell in row.items()
        if column not in skipped
    }
    return {column: texts for column, texts in found.items() if texts}


def _tokens(row: Mapping[str, Any], separators: Mapping[str, str], id_column: str) -> list[str]:
    return [
        f"{column}{_SEPARATOR}{text}"
        for column, texts in attributes_of(row, separators, id_column).items()
        for text in texts
    ]


def _separators(frame: pl.DataFrame, id_column: str) -> dict[str, str]:
    """Where the texts of a column are lists: the same decision as the graph's."""
    found = {}
    for series in frame:
        if series.dtype != pl.String or series.name in (id_column, *TITLE_COLUMNS):
            continue
        filled = series.filter(series.is_not_null() & (series != ""))
        if len(filled) and (separator := find_separator(filled)):
            found[series.name] = separator
    return found

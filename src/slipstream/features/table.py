"""A table of attributes as one sparse matrix, with a report of what became of each column.

Used for items and for users: the two differ only in whose rows they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.config import Settings
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.features.text import words
from slipstream.graph.columns import ColumnRule, column_values
from slipstream.graph.construction import LABEL_COLUMNS


class FeatureSettings(Settings):
    """What becomes a feature. The defaults are what we ship."""

    minimum_rows: int = 2  # a value that only one row has cannot carry anything over to another
    most_features: int = 50_000  # the most frequent are kept
    buckets: int = 5  # quantile buckets of a number
    words_in_text: bool = True


@dataclass(frozen=True)
class ColumnReport:
    """What became of one column."""

    column: str
    treatment: str  # of graph/columns.py, or "words"
    features: int
    coverage: float  # share of rows with at least one feature of this column


@dataclass(frozen=True)
class FeatureTable:
    """matrix: [N, F] float32, rows of unit length (or empty), columns weighted by rarity."""

    matrix: sp.csr_matrix
    names: tuple[str, ...]  # F names, `column=value`
    columns: tuple[ColumnReport, ...]


def feature_table(
    frame: pl.DataFrame, id_column: str, ids: Vocabulary, settings: FeatureSettings | None = None
) -> FeatureTable:
    """The features of every id of `ids`; rows of other ids are ignored, ids without a row are empty.

    What a column holds is decided as for the graph (graph/columns.py): lists are split, years become decades,
    numbers are cut at quantiles; titles and free text, which the graph leaves alone, give words. A feature
    weighs log(1 + N / rows that have it) (inverse document frequency, Spärck Jones 1972); rows are then
    scaled to unit length. Cost O(cells).
    """
    settings = settings or FeatureSettings()
    known = frame.filter(pl.col(id_column).is_not_null()).unique(id_column, keep="last", maintain_order=True)
    rows = ids.numbers(known[id_column])
    known, rows = known.filter(pl.Series(rows >= 0)), rows[rows >= 0]
    parts: list[tuple[NDArray[np.int32], list[str]]] = []
    reports: list[ColumnReport] = []
    for column in known.columns:
        if column == id_column:
            continue
        treatment, places, values = _column(known[column], settings)
        names, kept = _frequent(values, places, settings.minimum_rows)
        parts.append((rows[kept], names))
        coverage = len(np.unique(kept)) / max(1, known.height)
        label = treatment if len(names) else "left out"
        reports.append(ColumnReport(column, label, len(set(names)), coverage))
    return _assemble(parts, len(ids), settings.most_features, tuple(reports))


def _column(series: pl.Series, settings: FeatureSettings) -> tuple[str, NDArray[np.int32], list[str]]:
    """(treatment, row of each value, `column=value` of each value; `column~word` for words)."""
    is_text = series.dtype == pl.String
    label = is_text and series.name in LABEL_COLUMNS
    values = column_values(
        series, ColumnRule(treat="left out") if label else ColumnRule(buckets=settings.buckets)
    )
    free_text = label or (is_text and values.report.treatment == "left out" and "text" in values.report.why)
    if free_text and settings.words_in_text:
        pairs = [(r, w) for r, t in enumerate(series) if t for w in dict.fromkeys(words(t))]
        rows = np.fromiter((r for r, _ in pairs), np.int32, len(pairs))
        return "words", rows, [f"{series.name}~{w}" for _, w in pairs]
    cells = values.cells
    return values.report.treatment, cells["row"].to_numpy(), [f"{series.name}={v}" for v in cells["value"]]


def _frequent(
    values: list[str], places: NDArray[np.int32], minimum: int
) -> tuple[list[str], NDArray[np.int32]]:
    if not values:
        return [], places
    cells = pl.DataFrame({"value": values, "place": places}).unique(maintain_order=True)
    kept = cells.filter(pl.len().over("value") >= minimum)
    return kept["value"].to_list(), kept["place"].to_numpy().astype(np.int32)


def _assemble(
    parts: list[tuple[NDArray[np.int32], list[str]]],
    height: int,
    most: int,
    reports: tuple[ColumnReport, ...],
) -> FeatureTable:
    names = [n for _, values in parts for n in values]
    rows = np.concatenate([r for r, _ in parts]) if parts else np.zeros(0, np.int32)
    counts = pl.Series("name", names, pl.String).value_counts(sort=True)
    top = counts.sort(["count", "name"], descending=[True, False]).head(most)["name"].sort().to_list()
    vocabulary = Vocabulary.of(top)
    columns = vocabulary.numbers(names)
    rows, columns = rows[columns >= 0], columns[columns >= 0]
    cells = (np.ones(len(rows), np.float32), (rows, columns))
    matrix = sp.csr_matrix(cells, shape=(height, len(top)), dtype=np.float32)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return FeatureTable(_weighted(matrix), tuple(top), reports)


def _weighted(matrix: sp.csr_matrix) -> sp.csr_matrix:
    frequency = np.maximum(np.asarray(matrix.sum(axis=0)).ravel(), 1.0)
    weighted = sp.csr_matrix(matrix @ sp.diags(np.log1p(matrix.shape[0] / frequency).astype(np.float32)))
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return sp.csr_matrix(sp.diags(scale.astype(np.float32)) @ weighted, dtype=np.float32)

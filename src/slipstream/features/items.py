"""Item features: attributes and title words of the catalogue as one sparse matrix."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import scipy.sparse as sp

from slipstream.dataset.vocabulary import Vocabulary
from slipstream.features.table import ColumnReport, FeatureSettings, feature_table


@dataclass(frozen=True)
class ItemFeatures:
    """matrix: [I, F] float32, one row of unit length per item (empty where the catalogue is silent)."""

    matrix: sp.csr_matrix
    names: tuple[str, ...]  # F names: `column=value`, or `column~word` for text
    columns: tuple[ColumnReport, ...] = ()


def item_features(
    catalogue: pl.DataFrame | None, items: Vocabulary, settings: FeatureSettings | None = None
) -> ItemFeatures | None:
    """The features of every item of `items`, or None without a catalogue (`item_id` and attributes)."""
    if catalogue is None or catalogue.width < 2:
        return None
    table = feature_table(catalogue, "item_id", items, settings)
    return ItemFeatures(table.matrix, table.names, table.columns)

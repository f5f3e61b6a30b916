"""User features: attributes of the users table, and the taste profile learned from their history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.features.items import ItemFeatures
from slipstream.features.table import ColumnReport, FeatureSettings, feature_table


@dataclass(frozen=True)
class UserFeatures:
    """matrix: [U, F] float32, one row of unit length per user (empty where nothing is known)."""

    matrix: sp.csr_matrix
    names: tuple[str, ...]
    columns: tuple[ColumnReport, ...] = ()


def user_features(
    people: pl.DataFrame | None, users: Vocabulary, settings: FeatureSettings | None = None
) -> UserFeatures | None:
    """The features of every user of `users`, or None without a table (column `user_id` and attributes)."""
    if people is None or people.width < 2:
        return None
    table = feature_table(people, "user_id", users, settings)
    return UserFeatures(table.matrix, table.names, table.columns)


def taste_profile(queries: Queries, items: ItemFeatures, *, half_life: float = 20.0) -> sp.csr_matrix:
    """What each query's history is made of: the mean of its items' features, the newest weighing most.

    Returns [Q, F] with rows of unit length. An event loses half its weight each `half_life` later events, so
    the profile is as of the request: it never sees what comes after. Cost O(history · features per item).
    """
    known = queries.item >= 0
    age = np.repeat(queries.offsets[1:], np.diff(queries.offsets)) - 1 - np.arange(len(queries.item))
    weight = np.exp2(-age / half_life).astype(np.float32)
    shape = (len(queries), items.matrix.shape[0])
    taken = (weight[known], (queries.rows()[known], queries.item[known]))
    profile = sp.csr_matrix(sp.csr_matrix(taken, shape=shape) @ items.matrix)
    length = np.sqrt(np.asarray(profile.multiply(profile).sum(axis=1)).ravel())
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return sp.csr_matrix(sp.diags(scale) @ profile, dtype=np.float32)


def strongest(row: sp.csr_matrix, names: tuple[str, ...], limit: int = 5) -> list[tuple[str, float]]:
    """The names and weights of the largest features of one row, for people to read."""
    order: NDArray[np.intp] = np.lexsort((row.indices, -row.data))[:limit]
    return [(names[row.indices[i]], float(row.data[i])) for i in order]

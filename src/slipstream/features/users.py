"""User features: attributes of the users table and the taste profile, as one sparse matrix."""

from __future__ import annotations

from dataclasses import dataclass

import scipy.sparse as sp


@dataclass(frozen=True)
class UserFeatures:
    """matrix: [U, F] float32, one row per user of the snapshot."""

    matrix: sp.csr_matrix
    names: tuple[str, ...]

"""Item features: attributes and title words of the catalogue as one sparse matrix."""

from __future__ import annotations

from dataclasses import dataclass

import scipy.sparse as sp


@dataclass(frozen=True)
class ItemFeatures:
    """matrix: [I, F] float32, one row per item of the snapshot (empty where the catalogue is silent)."""

    matrix: sp.csr_matrix
    names: tuple[str, ...]  # F names, `column=value`

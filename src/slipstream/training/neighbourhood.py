"""Which items stand near each other in histories: the sparse matrix that smooths the item table.

On sparse data an item has a handful of events, too few for a vector of its own. Its neighbours say where it
belongs: v_i = e_i + share · Σ_j A[i, j] e_j, one step of the graph convolution of LightGCN (He et al. 2020,
eq. 7) on the item-item graph. Differs: items meet within a window of a history instead of in whole baskets,
a pair d events apart counts 1/d, and the count is damped by a square root. Training only: the finished table
holds the sum, so inference pays nothing.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

REACH = 10  # events between the two items of a pair, at most


def neighbourhood(
    offsets: NDArray[np.int64], item: NDArray[np.int32], items: int, limit: int
) -> sp.csr_matrix:
    """A [I, I] float32, symmetric: A = D^-1/2 C D^-1/2 with C the damped counts and D their row sums.

    A pair stays if it is among the `limit` nearest of either item. O(E · REACH) time and pairs.
    """
    counts = _pairs(offsets, item, items)
    counts = (counts + counts.T).tocsr()
    counts.setdiag(0)
    counts.eliminate_zeros()
    counts.data **= 0.5
    scaled = _normalised(counts)
    near = _nearest(scaled, limit)
    return _normalised(scaled.multiply(near.maximum(near.T)).tocsr()).astype(np.float32)


def _pairs(offsets: NDArray[np.int64], item: NDArray[np.int32], items: int) -> sp.csr_matrix:
    """[I, I]: how near j came after i, summed over all histories."""
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counts = sp.csr_matrix((items, items), dtype=np.float64)
    for distance in range(1, min(REACH, len(item) - 1) + 1):
        same = user[distance:] == user[:-distance]
        pairs = (item[:-distance][same], item[distance:][same])
        weight = np.full(len(pairs[0]), 1.0 / distance)
        counts = counts + sp.csr_matrix((weight, pairs), shape=counts.shape)
    return counts.tocsr()


def _normalised(matrix: sp.csr_matrix) -> sp.csr_matrix:
    degree = np.maximum(np.asarray(matrix.sum(1)).ravel(), 1e-12)
    root = sp.diags(degree**-0.5)
    return (root @ matrix @ root).tocsr()


def _nearest(matrix: sp.csr_matrix, limit: int) -> sp.csr_matrix:
    """1 at the `limit` largest values of each row; ties keep the lower column."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row))
    rank = np.empty(len(row), np.int64)
    rank[order] = np.arange(len(row)) - matrix.indptr[row[order]]
    keep = rank < limit
    return sp.csr_matrix((np.ones(int(keep.sum())), (row[keep], matrix.indices[keep])), shape=matrix.shape)

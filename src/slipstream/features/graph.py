"""What the knowledge graph tells of items, as columns that a model can learn a vector for."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from slipstream.graph.linked_graph import LinkedGraph


def entity_features(graph: LinkedGraph) -> sp.csr_matrix:
    """[I, F] float32: the items' neighbours that are no people; a column is one seen through one relation.

    Both directions of a relation that is not symmetric are columns of their own. Columns of one item alone
    are left out: they tell nothing of others. A neighbour of n items counts n^-1/2, so that one that half of
    all items have does not drown the others. O(edges log edges).
    """
    edges, items = graph.edges, graph.item_count
    people = slice(items, items + graph.user_count)
    symmetric = np.asarray(graph.graph.symmetric, bool)[edges.relation]
    item = np.concatenate([edges.head, edges.tail]).astype(np.int64)
    other = np.concatenate([edges.tail, edges.head]).astype(np.int64)
    kind = 2 * np.concatenate([edges.relation, edges.relation]).astype(np.int64)
    kind += np.concatenate([np.zeros_like(symmetric), ~symmetric])
    kept = (item < items) & ~((other >= people.start) & (other < people.stop))
    item, other, kind = item[kept], other[kept], kind[kept]
    _, column = np.unique(kind * graph.node_count + other, return_inverse=True)
    cells = sp.csc_matrix((np.ones(len(item), np.float32), (item, column)), shape=(items, _count(column)))
    cells.data[:] = 1.0  # the same edge told twice, as a symmetric one may be, counts once
    shared = np.diff(cells.indptr)
    cells = cells[:, shared > 1] @ sp.diags(shared[shared > 1].astype(np.float32) ** -0.5)
    return sp.csr_matrix(cells, dtype=np.float32)


def _count(column: np.ndarray) -> int:
    return int(column.max()) + 1 if len(column) else 0

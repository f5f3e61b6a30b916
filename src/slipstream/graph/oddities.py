"""What is odd in a graph, for its report: nothing here is cut or repaired, only told."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from slipstream.graph.knowledge_graph import KnowledgeGraph

SHOWN = 5
HUB_EDGES, HUB_SHARE = 1_000, 0.01


def hubs(graph: KnowledgeGraph) -> dict[str, int]:
    """The (at most 5) entities with the most edges, where that is 1,000 and 1 % of all: {name: edges}.

    A hub is kept whole: it tells little about what it is joined to, and degree terms say so.
    """
    degree = np.diff(graph.offsets) + np.diff(graph.tail_offsets)
    order = np.argsort(-degree, kind="stable")[:SHOWN]
    least = max(HUB_EDGES, HUB_SHARE * graph.edge_count)
    return {graph.name(int(e)): int(degree[e]) for e in order if degree[e] >= least}


def cycles(graph: KnowledgeGraph) -> dict[str, int]:
    """{relation: entities from which it leads back to them}, of relations that are not symmetric.

    A chain of subclasses that bites its tail, say. Harmless to sums over simple paths, but rarely meant.
    O(M) per relation.
    """
    found = {}
    head, relation, tail = graph.head, np.asarray(graph.relation), np.asarray(graph.tail)
    order = np.argsort(relation, kind="stable")
    ends = np.searchsorted(relation[order], np.arange(len(graph.relations) + 1))
    for number in range(len(graph.relations)):
        if graph.symmetric[number]:
            continue
        edges = order[ends[number] : ends[number + 1]]
        nodes, place = np.unique(np.concatenate([head[edges], tail[edges]]), return_inverse=True)
        a, b = place[: len(edges)], place[len(edges) :]
        matrix = sp.csr_matrix((np.ones(len(edges), bool), (a, b)), shape=(len(nodes), len(nodes)))
        _, component = connected_components(matrix, connection="strong")
        sizes = np.bincount(component)
        if count := int((sizes[component] > 1).sum()):
            found[graph.relations[number]] = count
    return found

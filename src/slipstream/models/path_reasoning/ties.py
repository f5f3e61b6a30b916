"""Ties between people: somebody -friend-> somebody else -touched-> item.

The second person is walked over and never named: no id of theirs is kept with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.dataset.queries import Queries
from slipstream.dataset.snapshot import Snapshot
from slipstream.graph.knowledge_graph import inverse_name
from slipstream.graph.linked_graph import LinkedGraph
from slipstream.models.path_reasoning.attention import Starts, rows_of_askers
from slipstream.models.path_reasoning.legs import read_matrix, rounded, write_matrix

_MOST_TOUCHED = 300  # latest events kept of each person that somebody is tied to


@dataclass(frozen=True)
class Tie:
    """One relation between people, in one direction, and what walking it weighs.

    matrix: [U, U], or [U, V] once only those V people are kept to whom somebody is tied; the ties of a person
    add up to 1, nobody is tied to themselves. newcomer: what it weighs more for a person without events.
    """

    relation: str
    matrix: sp.csr_matrix
    weight: float = 1.0
    newcomer: float = 0.0

    def starts(self, queries: Queries, events: NDArray[np.integer], half: float) -> sp.csr_matrix:
        """[Q, V]: the first hops of askers of whose histories `events` [Q] are known; none of strangers."""
        factor = self.weight + self.newcomer * half / (half + events)
        return sp.csr_matrix(sp.diags(factor) @ rows_of_askers(queries, self.matrix))

    def starts_of(self, user: int, events: int, half: float) -> Starts:
        """`starts` of one asker, without the cost of matrices."""
        known = 0 <= user < self.matrix.shape[0]
        row = slice(*self.matrix.indptr[user : user + 2]) if known else slice(0, 0)
        factor = self.weight + self.newcomer * half / (half + events)
        return Starts(self.matrix.indices[row].astype(np.int64), self.matrix.data[row] * factor)

    def write(self, writer: ArtifactWriter, name: str) -> dict[str, str | float]:
        """Returns what is not in the arrays; `read` takes it back."""
        write_matrix(writer, name, self.matrix)
        return {"relation": self.relation, "weight": self.weight, "newcomer": self.newcomer}

    @classmethod
    def read(cls, artifact: Artifact, name: str, about: dict[str, str | float]) -> Tie:
        weight, newcomer = float(about["weight"]), float(about["newcomer"])
        return cls(str(about["relation"]), read_matrix(artifact, name), weight, newcomer)


def ties_of(graph: LinkedGraph) -> tuple[Tie, ...]:
    """Both directions of every relation between people, but for symmetric ones. O(edges log edges)."""
    edges, users = graph.edges, graph.user_count
    first, last = graph.item_count, graph.item_count + users
    between = (edges.head >= first) & (edges.head < last) & (edges.tail >= first) & (edges.tail < last)
    relations, symmetric = graph.graph.relations.to_list(), np.asarray(graph.graph.symmetric)
    ties: list[Tie] = []
    for relation in np.unique(edges.relation[between]):
        rows = between & (edges.relation == relation) & (edges.head != edges.tail)
        cells = (np.ones(rows.sum()), (edges.head[rows] - first, edges.tail[rows] - first))
        out = sp.csr_matrix(cells, shape=(users, users))
        out.data[:] = 1.0
        ties.append(Tie(relations[relation], _shared(out)))
        if not symmetric[relation]:
            ties.append(Tie(inverse_name(relations[relation]), _shared(sp.csr_matrix(out.T))))
    return tuple(ties)


def _shared(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Each row divided by its sum, as float32 holds it."""
    total = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1.0)
    return rounded(sp.diags(1.0 / total) @ matrix)


def only_known(ties: Sequence[Tie]) -> tuple[tuple[Tie, ...], NDArray[np.int64]]:
    """(the ties, to people by their place in V, those people [V])."""
    reached = np.unique(np.concatenate([np.zeros(0, np.int64), *(tie.matrix.indices for tie in ties)]))
    kept = tuple(replace(tie, matrix=sp.csr_matrix(tie.matrix[:, reached])) for tie in ties)
    return kept, reached.astype(np.int64)


def touched(snapshot: Snapshot, people: NDArray[np.int64]) -> tuple[sp.csr_matrix, float]:
    """([V, I] gammas of the hop from a person to the items they touched, the share of events beyond the cap).

    Each of a person's n distinct items gets n^-1/2: of somebody who touched everything a touch says less.
    """
    lengths = np.diff(snapshot.offsets)
    rank = np.repeat(snapshot.offsets[1:], lengths) - np.arange(snapshot.event_count) - 1  # 0: newest
    latest = snapshot.keep(rank < _MOST_TOUCHED)
    matrix = sp.csr_matrix(latest.matrix()[people], dtype=np.float64)
    counts = np.diff(matrix.indptr)
    matrix.data = np.repeat(np.maximum(counts, 1) ** -0.5, counts)
    kept, had = (int(np.diff(s.offsets)[people].sum()) for s in (latest, snapshot))
    return rounded(matrix), 1.0 - kept / max(1, had)

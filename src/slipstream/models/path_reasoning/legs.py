"""The last hops of a path: from an item of the history (or an attribute of the person) to an item.

A leg is one metapath with its gammas. Its sum over all walks from weighted starts is a sparse product; one
asker's sums and paths are read from the same arrays (search.py), so what is explained is what was scored.

    EdgeLeg      item -similar_to-> item, item -next-> item, item -sequel-> item, attribute -prefers-> item
    FacetLeg     item -director-> person -is_director_of-> item, for all relations at once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.graph.knowledge_graph import inverse_name

Floats = NDArray[np.float64]

_ROUNDING = 1e-12
_SPARSE_STEP = 8  # times the cost of a step of the product with dense columns, measured on the two


class Leg(Protocol):
    @property
    def memory(self) -> float:
        """Events of the history after which one counts 1/e; 0: all alike."""
        ...

    def sums(self, starts: sp.csr_matrix) -> Floats:
        """[Q, I]: the sum over walks from each query's weighted starts [Q, S] to every item but the start."""
        ...


@dataclass(frozen=True)
class EdgeLeg:
    """One relation straight to the item. matrix: [S, I] float64, >= 0, no diagonal where S = I."""

    relation: str
    matrix: sp.csr_matrix
    memory: float

    def sums(self, starts: sp.csr_matrix) -> Floats:
        return np.asarray((starts @ self.matrix).toarray())

    @cached_property
    def tells(self) -> Floats:
        """[S]: what a hop from each start tells, see groups.py."""
        return _information(self.matrix)

    def scaled(self, factor: float) -> EdgeLeg:
        return EdgeLeg(self.relation, sp.csr_matrix(self.matrix * factor), self.memory)

    def write(self, writer: ArtifactWriter, name: str) -> None:
        write_matrix(writer, name, self.matrix)

    @classmethod
    def read(cls, artifact: Artifact, name: str, relation: str, memory: float) -> EdgeLeg:
        return cls(relation, read_matrix(artifact, name), memory)


@dataclass(frozen=True)
class FacetLeg:
    """Item to entity and back, over all relations.

    A facet is an entity seen through one relation and direction. out: [I, F], back: [F, I] float64.
    """

    out: sp.csr_matrix
    back: sp.csr_matrix
    relations: Sequence[str]  # [R]
    facet_relation: NDArray[np.int32]  # [F] number of a relation
    facet_inverse: NDArray[np.bool_]  # [F] True: the item is the tail of the edge
    facet_entity: NDArray[np.int32]  # [F] number of an entity
    memory: float

    @property
    def facet_count(self) -> int:
        return len(self.facet_relation)

    def sums(self, starts: sp.csr_matrix) -> Floats:
        at_facets = sp.csr_matrix(starts @ self.out)
        if self._steps(at_facets) * _SPARSE_STEP < self.back.nnz * starts.shape[0]:
            sums = np.asarray((at_facets @ self.back).toarray())
        else:
            sums = np.ascontiguousarray((self.to_items @ at_facets.toarray().T).T)
        rows = np.repeat(np.arange(starts.shape[0]), np.diff(starts.indptr))
        self.take_back(sums, (rows, starts.indices), starts.indices, starts.data)
        return sums

    def take_back(self, sums: Floats, at: Any, item: NDArray[np.integer], weight: Floats) -> None:
        """Item - entity - the same item is no path: off with it, in place; of equal numbers nothing is left.

        at: where in `sums` the start `item` of this `weight` stands.
        """
        sums[at] -= weight * self.around[item]
        sums[sums < _ROUNDING] = 0.0

    def _steps(self, at_facets: sp.csr_matrix) -> int:
        """Multiplications of the sparse product from facets to items."""
        return int(np.diff(self.back.indptr)[at_facets.indices].sum())

    @cached_property
    def to_items(self) -> sp.csr_matrix:
        """[I, F]: the gammas of the last hop, by item."""
        matrix = sp.csr_matrix(self.back.T)
        matrix.sort_indices()
        return matrix

    @cached_property
    def from_facets(self) -> sp.csr_matrix:
        """[F, I]: the gammas of the hop to the entity, by facet."""
        matrix = sp.csr_matrix(self.out.T)
        matrix.sort_indices()
        return matrix

    @cached_property
    def tells(self) -> Floats:
        """[F]: what a hop from each facet tells, see groups.py."""
        return _information(self.back)

    @cached_property
    def around(self) -> Floats:
        """[I]: the walks from an item over an entity back to it."""
        return np.asarray(self.out.multiply(self.to_items).sum(axis=1)).ravel()

    @cached_property
    def facet_kind(self) -> NDArray[np.int64]:
        """[F]: facets of the same relation and direction have the same number."""
        return self.facet_relation.astype(np.int64) * 2 + self.facet_inverse

    def hop_names(self, facet: int) -> tuple[str, str]:
        """The relation from the item to the facet's entity, and the one back."""
        relation = self.relations[int(self.facet_relation[facet])]
        there, back = relation, inverse_name(relation)
        return (back, there) if self.facet_inverse[facet] else (there, back)

    def weighted(self, weights: sp.csr_matrix) -> FacetLeg:
        """The same walks with other gammas of the way back; facets that no longer lead anywhere go. [F, I]"""
        used = np.flatnonzero(np.diff(weights.indptr) > 0)
        return FacetLeg(
            sp.csr_matrix(self.out[:, used]),
            sp.csr_matrix(weights[used]),
            self.relations,
            self.facet_relation[used],
            self.facet_inverse[used],
            self.facet_entity[used],
            self.memory,
        )

    def remembering(self, memory: float) -> FacetLeg:
        return FacetLeg(
            self.out,
            self.back,
            self.relations,
            self.facet_relation,
            self.facet_inverse,
            self.facet_entity,
            memory,
        )

    def write(self, writer: ArtifactWriter, name: str) -> None:
        write_matrix(writer, f"{name}.out", self.out)
        write_matrix(writer, f"{name}.back", self.back)
        writer.array(f"{name}.relation", self.facet_relation)
        writer.array(f"{name}.inverse", self.facet_inverse)
        writer.array(f"{name}.entity", self.facet_entity)

    @classmethod
    def read(cls, artifact: Artifact, name: str, relations: Sequence[str], memory: float) -> FacetLeg:
        return cls(
            read_matrix(artifact, f"{name}.out"),
            read_matrix(artifact, f"{name}.back"),
            relations,
            artifact.array(f"{name}.relation"),
            artifact.array(f"{name}.inverse"),
            artifact.array(f"{name}.entity"),
            memory,
        )


def _information(hops: sp.csr_matrix) -> Floats:
    """[rows]: log(I / n) where a row leads to n of the I columns."""
    return np.asarray(np.log(hops.shape[1] / np.maximum(np.diff(hops.indptr), 1)), np.float64)


def write_matrix(writer: ArtifactWriter, name: str, matrix: sp.csr_matrix) -> None:
    """Gammas are kept as float32; they are rounded before use (`rounded`), so saving changes nothing."""
    writer.array(f"{name}.offsets", matrix.indptr.astype(np.int64))
    writer.array(f"{name}.column", matrix.indices.astype(np.int32))
    writer.array(f"{name}.gamma", matrix.data.astype(np.float32))
    writer.array(f"{name}.shape", np.array(matrix.shape, np.int64))


def read_matrix(artifact: Artifact, name: str) -> sp.csr_matrix:
    parts = tuple(artifact.array(f"{name}.{part}") for part in ("gamma", "column", "offsets"))
    rows, columns = artifact.array(f"{name}.shape").tolist()
    return sp.csr_matrix((parts[0].astype(np.float64), parts[1], parts[2]), shape=(rows, columns))


def rounded(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The matrix with gammas that float32 holds exactly."""
    matrix = sp.csr_matrix(matrix)
    matrix.data = matrix.data.astype(np.float32).astype(np.float64)
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return matrix

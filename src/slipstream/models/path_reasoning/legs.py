"""The last hops of a path: from an item of the history (or an attribute of the person) to an item.

A leg is one metapath with its gammas. Its sum over all walks from weighted starts is a sparse product; its
paths to one item are read from the same arrays, so that what is explained is what was scored.

    EdgeLeg      item -similar_to-> item, item -next-> item, item -sequel-> item, attribute -prefers-> item
    FacetLeg     item -director-> person -is_director_of-> item, for all relations at once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.graph.knowledge_graph import inverse_name
from slipstream.graph.paths import ranges

Floats = NDArray[np.float64]

_SPARSE_STEP = 8  # times the cost of a step of the product with dense columns, measured on the two


@dataclass(frozen=True)
class LegPaths:
    """P paths of one leg to one item, in the order (start, via)."""

    start: NDArray[np.integer]  # [P] item (or attribute) number
    via: NDArray[np.integer] | None  # [P] facet number
    first: Floats  # [P] the weight of the start
    gammas: tuple[Floats, ...]  # of each hop after it, [P]
    score: Floats  # [P]


class Walks(Protocol):
    """What one asker can walk over a leg."""

    def to(self, item: int) -> LegPaths:
        """All paths to `item`, but none that comes back to its start."""
        ...


class Leg(Protocol):
    @property
    def memory(self) -> float:
        """Events of the history after which one counts 1/e; 0: all alike."""
        ...

    def sums(self, starts: sp.csr_matrix) -> Floats:
        """[Q, I]: the sum over walks from each query's weighted starts [Q, S] to every item but the start."""
        ...

    def walks(self, starts: sp.csr_matrix) -> Walks:
        """starts: [1, S], of one asker."""
        ...


@dataclass(frozen=True)
class EdgeLeg:
    """One relation straight to the item. matrix: [S, I] float64, >= 0, no diagonal where S = I."""

    relation: str
    matrix: sp.csr_matrix
    memory: float

    def sums(self, starts: sp.csr_matrix) -> Floats:
        return np.asarray((starts @ self.matrix).toarray())

    def walks(self, starts: sp.csr_matrix) -> Walks:
        return _EdgeWalks(self._columns, starts)

    @cached_property
    def _columns(self) -> sp.csc_matrix:
        columns = sp.csc_matrix(self.matrix)
        columns.sort_indices()
        return columns

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
            sums = np.ascontiguousarray((self._to_items @ at_facets.toarray().T).T)
        rows = np.repeat(np.arange(starts.shape[0]), np.diff(starts.indptr))
        # item - entity - the same item is no path; of equal numbers nothing may be left
        sums[rows, starts.indices] -= starts.data * self._around[starts.indices]
        sums[sums < 1e-12] = 0.0
        return sums

    def _steps(self, at_facets: sp.csr_matrix) -> int:
        """Multiplications of the sparse product from facets to items."""
        return int(np.diff(self.back.indptr)[at_facets.indices].sum())

    def walks(self, starts: sp.csr_matrix) -> Walks:
        return _FacetWalks(self.out, self._to_items, starts)

    @cached_property
    def _to_items(self) -> sp.csr_matrix:
        matrix = sp.csr_matrix(self.back.T)
        matrix.sort_indices()
        return matrix

    @cached_property
    def _around(self) -> Floats:
        """[I]: the walks from an item over an entity back to it."""
        return np.asarray(self.out.multiply(self._to_items).sum(axis=1)).ravel()

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


class _EdgeWalks:
    def __init__(self, columns: sp.csc_matrix, starts: sp.csr_matrix) -> None:
        self.columns = columns
        self.weight = np.zeros(columns.shape[0])
        self.weight[starts.indices] = starts.data

    def to(self, item: int) -> LegPaths:
        cells = slice(self.columns.indptr[item], self.columns.indptr[item + 1])
        source, gamma = self.columns.indices[cells], self.columns.data[cells]
        first = self.weight[source]
        inside = np.flatnonzero(first)
        source, gamma, first = source[inside], gamma[inside], first[inside]
        return LegPaths(source, None, first, (gamma,), first * gamma)


class _FacetWalks:
    """All facets of all starts, laid out once; an item then picks the ones it shares."""

    def __init__(self, out: sp.csr_matrix, to_items: sp.csr_matrix, starts: sp.csr_matrix) -> None:
        self.to_items = to_items
        begin, end = out.indptr[starts.indices], out.indptr[starts.indices + 1]
        cells = ranges(begin, end)
        self.facet = out.indices[cells]
        self.there = out.data[cells]
        self.source = np.repeat(starts.indices, end - begin)
        self.first = np.repeat(starts.data, end - begin)

    def to(self, item: int) -> LegPaths:
        cells = slice(self.to_items.indptr[item], self.to_items.indptr[item + 1])
        last = np.zeros(self.to_items.shape[1])
        last[self.to_items.indices[cells]] = self.to_items.data[cells]
        back = last[self.facet]
        back[self.source == item] = 0.0
        shared = np.flatnonzero(back)
        back, there, first = back[shared], self.there[shared], self.first[shared]
        return LegPaths(self.source[shared], self.facet[shared], first, (there, back), first * there * back)


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

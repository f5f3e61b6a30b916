"""A typed multigraph as memory-mapped CSR arrays.

Edges are stored once, in their own direction, sorted by (head, relation, tail); a second index holds the
same edges sorted by (tail, relation, head), so that walking backwards costs the same. The inverse of a
relation is never stored: walking `directed_by` backwards is the hop `is_directed_by_of`. A relation whose
edge set is its own reverse (a friendship) is marked symmetric and is not walked backwards: that would count
every edge twice. This file knows nothing of files in other forms (interchange.py), of catalogues
(construction.py), of items and users (linked_graph.py) or of scores (paths.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter, open_artifact, writing
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.errors import BadInput, CorruptArtifact
from slipstream.graph.merging import Edges, order_by

KIND = "graph"
DEFAULT_TYPE = "entity"
MOST_RELATIONS = np.iinfo(np.uint16).max + 1
MOST_ENTITIES = np.iinfo(np.int32).max

EDGE_COLUMNS = ("head", "relation", "tail")


def inverse_name(relation: str) -> str:
    """The name of the hop that walks `relation` backwards."""
    return f"is_{relation}_of"


@dataclass(frozen=True)
class KnowledgeGraph:
    """E entities, R relations, M edges; parallel edges differ in their relation. Immutable.

    `tail[offsets[e]:offsets[e+1]]` are the ends of the edges that leave e;
    `by_tail[tail_offsets[e]:tail_offsets[e+1]]` are the numbers of the edges that end at e.
    """

    entities: Vocabulary  # names, unique; sorted by (type, name), so a type is a range
    labels: Vocabulary | None  # what people read, one per entity (not unique); None: the names
    types: Vocabulary
    entity_type: NDArray[np.uint16]  # [E]
    relations: Vocabulary
    symmetric: NDArray[np.bool_]  # [R]
    offsets: NDArray[np.int64]  # [E + 1]
    relation: NDArray[np.uint16]  # [M]
    tail: NDArray[np.int32]  # [M]
    tail_offsets: NDArray[np.int64]  # [E + 1]
    by_tail: NDArray[np.int32]  # [M] edge numbers sorted by (tail, relation, head)
    sources: Vocabulary  # names of the files or tables the edges came from
    source: NDArray[np.uint16]  # [M]
    source_row: NDArray[np.int32]  # [M] 0-based row in that source

    @property
    def entity_count(self) -> int:
        return len(self.offsets) - 1

    @property
    def edge_count(self) -> int:
        return len(self.tail)

    @cached_property
    def head(self) -> NDArray[np.int32]:
        """The head of each edge, [M]."""
        return np.repeat(np.arange(self.entity_count, dtype=np.int32), np.diff(self.offsets))

    def name(self, entity: int) -> str:
        return self.entities[entity]

    def label(self, entity: int) -> str:
        """What a person reads for the entity."""
        return self.entities[entity] if self.labels is None else self.labels[entity]

    def type_of(self, entity: int) -> str:
        return self.types[int(self.entity_type[entity])]

    def edges_from(self, entity: int) -> NDArray[np.int64]:
        """Numbers of the edges that leave `entity`, in the order (relation, tail)."""
        return np.arange(self.offsets[entity], self.offsets[entity + 1])

    def edges_to(self, entity: int) -> NDArray[np.int32]:
        """Numbers of the edges that end at `entity`, in the order (relation, head)."""
        return self.by_tail[self.tail_offsets[entity] : self.tail_offsets[entity + 1]]

    def provenance(self, edge: int) -> tuple[str, int]:
        """(source, 0-based row) that the edge was first read from."""
        return self.sources[int(self.source[edge])], int(self.source_row[edge])

    def triples(self) -> pl.DataFrame:
        """All edges with names: head, relation, tail."""
        names, relations = self.entities.series(), self.relations.series()
        return pl.DataFrame(
            {
                "head": names.gather(self.head),
                "relation": relations.gather(self.relation.astype(np.int64)),
                "tail": names.gather(np.asarray(self.tail)),
            }
        )

    def write(self, path: Path, meta: Mapping[str, Any] | None = None) -> None:
        with writing(path, KIND, meta) as writer:
            self.write_into(writer)

    def write_into(self, writer: ArtifactWriter) -> None:
        for name in _VOCABULARIES:
            getattr(self, name).write(writer, name)
        if self.labels is not None:
            self.labels.write(writer, "labels")
        for name in _ARRAYS:
            writer.array(name, getattr(self, name))

    @classmethod
    def open(cls, path: Path) -> KnowledgeGraph:
        return cls.read(open_artifact(path, KIND, made_by="run `slipstream graph add` or `prepare` first"))

    @classmethod
    def read(cls, artifact: Artifact) -> KnowledgeGraph:
        vocabularies = {n: Vocabulary.read(artifact, n) for n in _VOCABULARIES}
        labels = Vocabulary.read(artifact, "labels") if artifact.has("labels.offsets.npy") else None
        arrays: dict[str, Any] = {name: artifact.array(name) for name in _ARRAYS}
        graph = cls(labels=labels, **{**vocabularies, **arrays})
        if len(graph.entities) != graph.entity_count or int(graph.offsets[-1]) != graph.edge_count:
            raise CorruptArtifact(f"{artifact.path}: the arrays of the graph do not fit together")
        return graph

    def to_networkx(self) -> Any:
        """A `networkx.MultiDiGraph`; needs the extra `graph`. See interchange.py."""
        from slipstream.graph.interchange import to_networkx

        return to_networkx(self)

    @classmethod
    def from_networkx(cls, graph: Any) -> KnowledgeGraph:
        """The graph in a NetworkX graph of any class. See interchange.py."""
        from slipstream.graph.interchange import from_networkx

        return from_networkx(graph)


_VOCABULARIES = ("entities", "types", "relations", "sources")
_ARRAYS = (
    "entity_type",
    "symmetric",
    "offsets",
    "relation",
    "tail",
    "tail_offsets",
    "by_tail",
    "source",
    "source_row",
)


def assemble(
    edges: Edges,
    *,
    names: pl.Series,
    entity_type: NDArray[np.uint16],
    types: Sequence[str],
    relations: Sequence[str],
    labels: pl.DataFrame | None = None,
    sources: Sequence[str] = ("",),
) -> KnowledgeGraph:
    """The graph of clean edges: construction.py does the cleaning and the reporting.

    edges: distinct, without self-loops, in the numbers of `names`, `relations` and `sources`; entity_type:
    for each name a number of `types`. Relations and types that nothing has are left out. labels: name, label
    of some. Cost O(M log M) time; about 60 bytes per edge while it runs.
    """
    if len(names) > MOST_ENTITIES or len(relations) > MOST_RELATIONS:
        raise BadInput(
            f"a graph has at most {MOST_ENTITIES:,} entities and {MOST_RELATIONS:,} relations, "
            f"got {len(names):,} and {len(relations):,}"
        )
    type_number, type_names = _sorted_numbers(types, entity_type)
    relation_number, relation_names = _sorted_numbers(relations, edges.relation)
    of_type = type_number[entity_type]
    order = pl.DataFrame({"type": of_type, "name": names}).select(
        pl.arg_sort_by("type", "name", maintain_order=True)
    )
    place = order.to_series().to_numpy()
    number = np.empty(len(names), np.int32)
    number[place] = np.arange(len(names), dtype=np.int32)
    head, tail = number[edges.head], number[edges.tail]
    relation = relation_number[edges.relation].astype(np.uint16)
    sort = order_by(head, relation, tail)
    head, tail, relation = head[sort], tail[sort], relation[sort]
    in_order = names.gather(place)
    return KnowledgeGraph(
        entities=Vocabulary.of(in_order),
        labels=None if labels is None else _labels(labels, in_order),
        types=Vocabulary.of(type_names),
        entity_type=of_type[place].astype(np.uint16),
        relations=Vocabulary.of(relation_names),
        symmetric=symmetric_relations(head, relation, tail, len(relation_names)),
        offsets=_offsets(head, len(names)),
        relation=relation,
        tail=tail,
        tail_offsets=_offsets(tail, len(names)),
        by_tail=order_by(tail, relation, head).astype(np.int32),
        sources=Vocabulary.of(sources),
        source=edges.source[sort],
        source_row=edges.row[sort],
    )


def _sorted_numbers(names: Sequence[str], used: NDArray[np.uint16]) -> tuple[NDArray[np.int32], list[str]]:
    """(new number of each name, 0 for one that is not used; the used names in alphabetical order)."""
    counts = np.bincount(used, minlength=len(names))
    kept = sorted((name, place) for place, name in enumerate(names) if counts[place])
    number = np.zeros(len(names), np.int32)
    number[[place for _, place in kept]] = np.arange(len(kept))
    return number, [name for name, _ in kept]


def symmetric_relations(
    head: NDArray[np.int32], relation: NDArray[np.uint16], tail: NDArray[np.int32], relations: int
) -> NDArray[np.bool_]:
    """[R], True where the edges of a relation, turned around, are the same edges. O(M log M)."""
    forward = order_by(relation, head, tail)
    backward = order_by(relation, tail, head)
    same = head[forward] == tail[backward]
    same &= tail[forward] == head[backward]
    wrong = np.bincount(relation[forward][~same], minlength=relations)
    return np.asarray((wrong == 0) & (np.bincount(relation, minlength=relations) > 0))


def _labels(labels: pl.DataFrame, names: pl.Series) -> Vocabulary:
    given = labels.drop_nulls().unique("name", keep="first", maintain_order=True)
    full = pl.DataFrame({"name": names}).join(given, on="name", how="left", maintain_order="left")
    return Vocabulary.of(full.select(pl.coalesce("label", "name"))["label"])


def _offsets(numbers: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(numbers, minlength=count), out=offsets[1:])
    return offsets

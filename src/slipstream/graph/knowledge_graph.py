"""A typed multigraph as memory-mapped CSR arrays, and its join with the items and users of a snapshot.

Edges are stored once, in their own direction, sorted by (head, relation, tail); a second index holds the
same edges sorted by (tail, relation, head), so that walking backwards costs the same. The inverse of a
relation is never stored: walking `directed_by` backwards is the hop `is_directed_by_of`. A relation whose
edge set is its own reverse (a friendship) is marked symmetric and is not walked backwards: that would count
every edge twice. This file knows nothing of files in other forms (interchange.py), of catalogues
(construction.py) or of scores (paths.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter, open_artifact, writing
from slipstream.dataset.vocabulary import UNKNOWN, Vocabulary
from slipstream.errors import BadInput, CorruptArtifact

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
        for name in ("entities", "types", "relations", "sources"):
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
        graph = cls(
            labels=Vocabulary.read(artifact, "labels") if artifact.has("labels.offsets.npy") else None,
            **{name: Vocabulary.read(artifact, name) for name in ("entities", "types", "relations", "sources")},
            **{name: artifact.array(name) for name in _ARRAYS},
        )
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
    edges: pl.DataFrame,
    *,
    types: pl.DataFrame,
    labels: pl.DataFrame | None = None,
    sources: Sequence[str] = ("",),
) -> KnowledgeGraph:
    """The graph of clean edges: construction.py does the cleaning and the reporting.

    edges: head, relation, tail (String), source (UInt16), row (Int32); distinct, without self-loops.
    types: name, type of every entity (also of entities without an edge). labels: name, label of some.
    Cost O(M log M) time; about 60 bytes per edge while it runs.
    """
    known = types.select("name", "type").unique("name", keep="first", maintain_order=True).sort("type", "name")
    relation_names = edges["relation"].unique().sort()
    if known.height > MOST_ENTITIES or len(relation_names) > MOST_RELATIONS:
        raise BadInput(
            f"a graph holds at most {MOST_ENTITIES} entities and {MOST_RELATIONS} relations, "
            f"this one has {known.height} and {len(relation_names)}"
        )
    entities = Vocabulary.of(known["name"].to_list())
    head = _numbers(edges["head"], known["name"])
    tail = _numbers(edges["tail"], known["name"])
    relation = _numbers(edges["relation"], relation_names)
    order = np.lexsort((tail, relation, head))
    head, tail, relation = head[order], tail[order], relation[order].astype(np.uint16)
    by_tail = np.lexsort((head, relation, tail)).astype(np.int32)
    type_names = known["type"].unique().sort()
    return KnowledgeGraph(
        entities=entities,
        labels=None if labels is None else _labels(labels, known["name"]),
        types=Vocabulary.of(type_names.to_list()),
        entity_type=_numbers(known["type"], type_names).astype(np.uint16),
        relations=Vocabulary.of(relation_names.to_list()),
        symmetric=symmetric_relations(head, relation, tail, len(relation_names)),
        offsets=_offsets(head, known.height),
        relation=relation,
        tail=tail,
        tail_offsets=_offsets(tail, known.height),
        by_tail=by_tail,
        sources=Vocabulary.of(sources),
        source=edges["source"].to_numpy()[order].astype(np.uint16),
        source_row=edges["row"].to_numpy()[order].astype(np.int32),
    )


def symmetric_relations(
    head: NDArray[np.int32], relation: NDArray[np.uint16], tail: NDArray[np.int32], relations: int
) -> NDArray[np.bool_]:
    """[R], True where the edges of a relation, turned around, are the same edges. O(M log M)."""
    forward = np.lexsort((tail, head, relation))
    backward = np.lexsort((head, tail, relation))
    same = (head[forward] == tail[backward]) & (tail[forward] == head[backward])
    wrong = np.bincount(relation[forward][~same], minlength=relations)
    return np.asarray((wrong == 0) & (np.bincount(relation, minlength=relations) > 0))


def _numbers(texts: pl.Series, names: pl.Series) -> NDArray[np.int32]:
    """The place of each text in `names`; every text must be there."""
    index = pl.DataFrame({"name": names, "number": np.arange(len(names), dtype=np.int32)})
    found = pl.DataFrame({"name": texts}).join(index, on="name", how="left", maintain_order="left")
    return found["number"].to_numpy().astype(np.int32)


def _labels(labels: pl.DataFrame, names: pl.Series) -> Vocabulary:
    given = labels.drop_nulls().unique("name", keep="first", maintain_order=True)
    full = pl.DataFrame({"name": names}).join(given, on="name", how="left", maintain_order="left")
    return Vocabulary.of(full.select(pl.coalesce("label", "name"))["label"].to_list())


def _offsets(numbers: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(numbers, minlength=count), out=offsets[1:])
    return offsets


@dataclass(frozen=True)
class NodeEdges:
    """The edges of a linked graph in node numbers, sorted by (head, relation, tail), each once."""

    head: NDArray[np.int32]  # [N]
    relation: NDArray[np.uint16]  # [N]
    tail: NDArray[np.int32]  # [N]
    edge: NDArray[np.int32]  # [N] the edge of the graph it stands for


@dataclass(frozen=True)
class LinkedGraph:
    """A graph joined with a snapshot's items and users: a linked item *is* its entity.

    Nodes are numbered items (0 .. I-1), users (I .. I+U-1), then the entities that nothing is linked to, in
    the order of the graph. Two items may share an entity (the same film sold twice): each gets its edges.
    """

    graph: KnowledgeGraph
    item_entity: NDArray[np.int32]  # [I], -1: none
    item_confidence: NDArray[np.float32]  # [I], 0: none
    items: Vocabulary
    users: Vocabulary = field(default_factory=lambda: Vocabulary.of(()))
    user_entity: NDArray[np.int32] | None = None  # [U], -1: none
    report: Mapping[str, Any] | None = None

    @property
    def item_count(self) -> int:
        return len(self.item_entity)

    @property
    def user_count(self) -> int:
        return 0 if self.user_entity is None else len(self.user_entity)

    @property
    def node_count(self) -> int:
        return self.item_count + self.user_count + len(self.free_entities)

    @cached_property
    def _taken(self) -> NDArray[np.int32]:
        """Entities of items and users in node order, -1 where there is none."""
        users = np.zeros(0, np.int32) if self.user_entity is None else self.user_entity
        return np.concatenate([self.item_entity, users]).astype(np.int32)

    @cached_property
    def free_entities(self) -> NDArray[np.int32]:
        """The entities that are nodes of their own, ascending."""
        free = np.ones(self.graph.entity_count, bool)
        free[self._taken[self._taken >= 0]] = False
        return np.flatnonzero(free).astype(np.int32)

    @cached_property
    def edges(self) -> NodeEdges:
        """All edges between nodes; an edge of an entity with two items appears for both. O(N log N)."""
        linked = np.flatnonzero(self._taken >= 0)
        entity = np.concatenate([self._taken[linked], self.free_entities])
        node = np.concatenate([linked, len(self._taken) + np.arange(len(self.free_entities))])
        order = np.argsort(entity, kind="stable")
        entity, node = entity[order], node[order].astype(np.int32)
        starts = np.searchsorted(entity, np.arange(self.graph.entity_count + 1))
        number = np.arange(self.graph.edge_count)
        head, number = _expand(self.graph.head, number, starts, node)
        tail, again = _expand(np.asarray(self.graph.tail)[number], np.arange(len(number)), starts, node)
        head, number = head[again], number[again]
        relation = np.asarray(self.graph.relation)[number]
        keep = head != tail  # two items of one entity with an edge to itself cannot be, but stay safe
        order = np.lexsort((tail[keep], relation[keep], head[keep]))
        pick = np.flatnonzero(keep)[order]
        return NodeEdges(head[pick], relation[pick], tail[pick], number[pick].astype(np.int32))

    def node_name(self, node: int) -> str:
        """The outside name: an item or user is its id, an entity its name (marked where an id has it too)."""
        if node < self.item_count:
            return self.items[node]
        if node < len(self._taken):
            return self.users[node - self.item_count]
        name = self.graph.name(int(self.free_entities[node - len(self._taken)]))
        return f"entity:{name}" if name in self.items or name in self.users else name

    def node_label(self, node: int) -> str:
        """What a person reads."""
        if node < len(self._taken):
            entity = int(self._taken[node])
            return self.node_name(node) if entity < 0 else self.graph.label(entity)
        return self.graph.label(int(self.free_entities[node - len(self._taken)]))

    def node_names(self) -> pl.Series:
        """The names of all nodes, in node order."""
        entities = self.graph.entities.series().gather(self.free_entities)
        taken = entities.is_in(self.items.series()) | entities.is_in(self.users.series())
        marked = pl.select(pl.when(taken).then(pl.lit("entity:") + entities).otherwise(entities)).to_series()
        users = self.users.series() if self.user_count else pl.Series("id", [], pl.String)
        return pl.concat([self.items.series(), users, marked.alias("id")])

    def export(self) -> pl.DataFrame:
        """head, relation, tail of every edge in both directions, with outside names."""
        names, relations = self.node_names(), self.graph.relations.series()
        edges = self.edges
        relation = relations.gather(edges.relation.astype(np.int64))
        forward = pl.DataFrame(
            {"head": names.gather(edges.head), "relation": relation, "tail": names.gather(edges.tail)}
        )
        turned = forward.filter(pl.Series(~np.asarray(self.graph.symmetric)[edges.relation]))
        backward = turned.select(
            pl.col("tail").alias("head"),
            pl.format("is_{}_of", pl.col("relation")).alias("relation"),
            pl.col("head").alias("tail"),
        )
        return pl.concat([forward, backward]).unique(maintain_order=True)

    def write_into(self, writer: ArtifactWriter) -> None:
        with writer.part("graph", KIND) as inner:
            self.graph.write_into(inner)
        self.items.write(writer, "items")
        self.users.write(writer, "users")
        writer.array("item_entity", self.item_entity)
        writer.array("item_confidence", self.item_confidence)
        if self.user_entity is not None:
            writer.array("user_entity", self.user_entity)
        writer.json("links", dict(self.report or {}))

    @classmethod
    def read(cls, artifact: Artifact) -> LinkedGraph:
        return cls(
            graph=KnowledgeGraph.read(artifact.part("graph")),
            item_entity=artifact.array("item_entity"),
            item_confidence=artifact.array("item_confidence"),
            items=Vocabulary.read(artifact, "items"),
            users=Vocabulary.read(artifact, "users"),
            user_entity=artifact.array("user_entity") if artifact.has("user_entity.npy") else None,
            report=artifact.json("links"),
        )


def _expand(
    entities: NDArray[np.int32], rows: NDArray[np.int64], starts: NDArray[np.int64], node: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """For each entity all its nodes: (nodes, the row of each)."""
    counts = starts[entities + 1] - starts[entities]
    begin = np.repeat(starts[entities] - (np.cumsum(counts) - counts), counts)
    return node[begin + np.arange(len(begin))], np.repeat(rows, counts)


def join(
    graph: KnowledgeGraph,
    links: pl.DataFrame,
    items: Vocabulary,
    users: Vocabulary | None = None,
    *,
    user_links: pl.DataFrame | None = None,
    report: Mapping[str, Any] | None = None,
) -> LinkedGraph:
    """Join a graph with a snapshot. links: item_id, entity_id and optional confidence (best first wins).

    Users are linked by `user_links` (user_id, entity_id), else by the entity named `user:<user_id>`. Links to
    ids or entities that do not exist are ignored; linking.py reports them.
    """
    item_entity, confidence = _linked(graph, links, "item_id", items)
    user_entity = None
    if users is not None:
        if user_links is None:
            ids = users.series("user_id")
            user_links = pl.DataFrame({"user_id": ids, "entity_id": pl.lit("user:", eager=True) + ids})
        user_entity, _ = _linked(graph, user_links, "user_id", users)
    none = users is None or user_entity is None or not np.any(user_entity != UNKNOWN)
    return LinkedGraph(
        graph=graph,
        item_entity=item_entity,
        item_confidence=confidence,
        items=items,
        users=Vocabulary.of(()) if users is None or none else users,
        user_entity=None if none else user_entity,
        report=report,
    )


def _linked(
    graph: KnowledgeGraph, links: pl.DataFrame, id_column: str, ids: Vocabulary
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    number = ids.numbers(links[id_column])
    entity = graph.entities.numbers(links["entity_id"])
    given = links["confidence"].to_numpy() if "confidence" in links.columns else np.ones(links.height)
    good = (number != UNKNOWN) & (entity != UNKNOWN)
    entities = np.full(len(ids), UNKNOWN, np.int32)
    confidence = np.zeros(len(ids), np.float32)
    entities[number[good][::-1]] = entity[good][::-1]  # the first row of an id wins
    confidence[number[good][::-1]] = given[good][::-1]
    return entities, confidence

"""A knowledge graph joined with the items and users of a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.dataset.vocabulary import UNKNOWN, Vocabulary
from slipstream.graph.knowledge_graph import KIND, KnowledgeGraph

PERSON = "user:"
"""What the names of entities that stand for people begin with; their id follows."""


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
        entities = self.graph.entities.series().gather(self.free_entities).to_list()
        marked = [f"entity:{n}" if n in self.items or n in self.users else n for n in entities]
        users = self.users.to_list() if self.user_count else []
        return pl.Series("id", [*self.items.to_list(), *users, *marked], pl.String)

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
            user_links = pl.DataFrame({"user_id": ids}).with_columns(
                entity_id=pl.lit(PERSON) + pl.col("user_id")
            )
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

"""Graphs in the forms of other tools: NetworkX, in and out; RecBole's files, out (in: triple_files.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from slipstream.errors import BadInput, MissingExtra
from slipstream.graph.construction import Facts, build
from slipstream.graph.knowledge_graph import DEFAULT_TYPE, KnowledgeGraph

DEFAULT_RELATION = "related_to"


def _networkx(purpose: str) -> Any:
    try:
        import networkx
    except ImportError as error:
        raise MissingExtra("networkx", "graph", purpose) from error
    return networkx


def to_networkx(graph: KnowledgeGraph) -> Any:
    """A MultiDiGraph: nodes by name with `type` and `label`; edges keyed by relation with `source`, `row`."""
    result = _networkx("a NetworkX graph").MultiDiGraph()
    for entity in range(graph.entity_count):
        result.add_node(graph.name(entity), type=graph.type_of(entity), label=graph.label(entity))
    for edge, (head, relation, tail) in enumerate(graph.triples().iter_rows()):
        source, row = graph.provenance(edge)
        result.add_edge(head, tail, key=relation, relation=relation, source=source, row=row)
    return result


def write_recbole(folder: Path, name: str, edges: pl.DataFrame, links: pl.DataFrame) -> None:
    """RecBole's `name.kg` and `name.link` of edges (head, relation, tail) and links (item_id, entity_id).

    Every end and id is a token as it is; no name has a tab or a line end (construction.py rejects those).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for ending, frame, columns in (
        ("kg", edges, {"head": "head_id:token", "relation": "relation_id:token", "tail": "tail_id:token"}),
        ("link", links, {"item_id": "item_id:token", "entity_id": "entity_id:token"}),
    ):
        table = frame.select(list(columns)).rename(columns)
        table.write_csv(folder / f"{name}.{ending}", separator="\t", quote_style="never")


def from_networkx(graph: Any) -> KnowledgeGraph:
    """The graph in any NetworkX graph; names are `str(node)`, which must be distinct.

    The relation is the edge's attribute `relation`, else a key that is a text, else `related_to`. An
    undirected edge becomes two directed ones. Node attributes `type` and `label` are kept. Repeated edges
    and self-loops are dropped; relations are taken as they are (no inverse pair is merged).
    """
    _networkx("reading a NetworkX graph")
    names = {node: str(node) for node in graph.nodes}
    if len(set(names.values())) < len(names):
        raise BadInput("two nodes of the NetworkX graph have the same name as text", hint="rename the nodes")
    types = {names[n]: str(d.get("type") or DEFAULT_TYPE) for n, d in graph.nodes(data=True)}
    edges = _edges_of(graph)
    rows = [
        (names[a], types[names[a]], relation, names[b], types[names[b]], row)
        for row, (a, relation, b) in enumerate(edges)
    ]
    labels = [(names[n], str(d["label"])) for n, d in graph.nodes(data=True) if d.get("label") is not None]
    facts = Facts.of(
        pl.DataFrame(rows, schema=Facts.SCHEMA, orient="row"),
        source="networkx",
        labels=pl.DataFrame(labels, schema={"name": pl.String, "label": pl.String}, orient="row"),
        entities=pl.DataFrame(
            {"name": list(types), "type": list(types.values())}, schema={"name": pl.String, "type": pl.String}
        ),
    )
    return build([facts], infer_inverses=False).graph


def _edges_of(graph: Any) -> list[tuple[Any, str, Any]]:
    edges: list[tuple[Any, str, Any]] = []
    keyed = graph.edges(keys=True, data=True) if graph.is_multigraph() else _with_key(graph)
    for a, b, key, data in keyed:
        relation = str(data.get("relation") or (key if isinstance(key, str) else DEFAULT_RELATION))
        edges.append((a, relation, b))
        if not graph.is_directed():
            edges.append((b, relation, a))
    return edges


def _with_key(graph: Any) -> list[tuple[Any, Any, Any, Any]]:
    return [(a, b, None, data) for a, b, data in graph.edges(data=True)]

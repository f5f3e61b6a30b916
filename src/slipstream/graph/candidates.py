"""The entities of a graph as candidates for links: names a person can read, and the facts told of them."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

import numpy as np
import polars as pl

from slipstream.graph.knowledge_graph import KnowledgeGraph, inverse_name


def readable(name: str) -> str:
    """What a person reads in an entity's name: `dbr:The_Quest_(film)` is `The Quest (film)`."""
    last = name.rsplit("/", 1)[-1].rsplit("#", 1)[-1] if "://" in name else name
    if last == name and ":" in name and not name.split(":", 1)[1].startswith(" "):
        last = name.split(":", 1)[1]
    return unquote(last).replace("_", " ").strip() or name


def candidates_of(graph: KnowledgeGraph, types: Iterable[str] | None = None) -> pl.DataFrame:
    """id, label, type, facts of the entities of a graph, of some types or of all but users.

    facts: the relations an entity has, the inverse ones by their inverse names.
    """
    kinds = graph.types.to_list()
    frame = pl.DataFrame(
        {
            "number": np.arange(graph.entity_count, dtype=np.int32),
            "id": graph.entities.series(),
            "label": graph.entities.series() if graph.labels is None else graph.labels.series("label"),
            "type": pl.Series("type", [kinds[t] for t in graph.entity_type.tolist()], pl.String),
        }
    )
    wanted = list(types) if types is not None else [t for t in kinds if t != "user"]
    frame = (
        frame.filter(pl.col("type").is_in(wanted)).join(_facts(graph), on="number", how="left").drop("number")
    )
    unlabelled = pl.col("label") == pl.col("id")
    return frame.with_columns(
        pl.when(unlabelled)
        .then(pl.col("id").map_elements(readable, pl.String))
        .otherwise("label")
        .alias("label")
    )


def _facts(graph: KnowledgeGraph) -> pl.DataFrame:
    """number, facts: the distinct relations of each entity."""
    names = graph.relations.to_list()
    relation = np.asarray(graph.relation).astype(np.int32)
    ends = pl.DataFrame(
        {
            "number": np.concatenate([graph.head, graph.tail]),
            "fact": np.concatenate([relation, relation + len(names)]),
        }
    ).unique()
    words = pl.Series("fact", [*names, *map(inverse_name, names)], pl.String)
    told = ends.with_columns(words.gather(ends["fact"].cast(pl.Int64)).alias("fact")).sort("number", "fact")
    return told.group_by("number", maintain_order=True).agg(pl.col("fact").alias("facts"))

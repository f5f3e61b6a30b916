"""Tables and triples into a graph: typed entities, merged inverses, and a report of every decision.

Nothing here is silent: what was skipped, dropped, merged or refused is in the report, with row numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.errors import BadInput
from slipstream.graph.columns import ColumnReport, ColumnRule, column_values
from slipstream.graph.knowledge_graph import DEFAULT_TYPE, KnowledgeGraph, assemble

LONGEST_NAME = 2_000  # bytes
LABEL_COLUMNS = ("label", "title", "name", "Title", "Name")
_UNPRINTABLE = r"[\x00-\x1f\x7f]"
_SAME_PAIRS = 0.9  # Jaccard of r1 and the reverse of r2 from which they are one relation
_FEWEST_PAIRS = 5  # below that, a reverse can be chance


@dataclass(frozen=True)
class Facts:
    """Typed edges of one source, before they are joined with others.

    frame: SCHEMA; rejected: row, reason; labels: name, label; entities: name, type, also of the edgeless.
    """

    SCHEMA: ClassVar[dict[str, Any]] = {
        "head": pl.String,
        "head_type": pl.String,
        "relation": pl.String,
        "tail": pl.String,
        "tail_type": pl.String,
        "row": pl.Int32,
    }
    frame: pl.DataFrame
    source: str
    labels: pl.DataFrame
    entities: pl.DataFrame
    rejected: pl.DataFrame
    columns: tuple[ColumnReport, ...] = ()

    @classmethod
    def of(
        cls,
        frame: pl.DataFrame,
        source: str,
        *,
        labels: pl.DataFrame | None = None,
        entities: pl.DataFrame | None = None,
        rejected: pl.DataFrame | None = None,
        columns: tuple[ColumnReport, ...] = (),
    ) -> Facts:
        """Facts with nothing where nothing is given; unreadable edges move to `rejected`."""
        good, bad = _screen(frame.select(list(cls.SCHEMA)))
        none = pl.DataFrame(schema={"row": pl.Int32, "reason": pl.String})
        return cls(
            frame=good,
            source=source,
            labels=pl.DataFrame(schema={"name": pl.String, "label": pl.String}) if labels is None else labels,
            entities=pl.DataFrame(schema={"name": pl.String, "type": pl.String})
            if entities is None
            else entities,
            rejected=pl.concat([none if rejected is None else rejected, bad]),
            columns=columns,
        )


def _screen(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(edges that can be kept, row and reason of the others)."""
    reasons = []
    for column in ("head", "relation", "tail"):
        value = pl.col(column)
        reasons += [
            pl.when(value.is_null() | (value.str.strip_chars() == "")).then(pl.lit(f"no {column}")),
            pl.when(value.str.len_bytes() > LONGEST_NAME).then(pl.lit(f"{column} over {LONGEST_NAME} bytes")),
            pl.when(value.str.contains(_UNPRINTABLE)).then(pl.lit(f"{column} has unprintable characters")),
        ]
    judged = frame.with_columns(pl.coalesce(reasons).alias("reason"))
    bad = judged.filter(pl.col("reason").is_not_null()).select("row", "reason")
    return judged.filter(pl.col("reason").is_null()).drop("reason"), bad


def catalogue_facts(
    frame: pl.DataFrame,
    id_column: str,
    *,
    type: str = "item",
    source: str = "catalogue",
    prefix: str = "",
    label_column: str | None = None,
    columns: Mapping[str, ColumnRule] | None = None,
) -> Facts:
    """Typed facts from a table with one row per thing: (id, column, `column:value`).

    columns: rules for single columns; the others are decided by what they hold (columns.py). label_column:
    what people read; default the first of `label`, `title`, `name`. Rows without an id are rejected.
    """
    rules = dict(columns or {})
    missing = [c for c in [id_column, *rules, label_column] if c is not None and c not in frame.columns]
    if missing:
        raise BadInput(f"{source} has no column {missing[0]!r}", hint="columns: " + ", ".join(frame.columns))
    ids = frame[id_column].cast(pl.String).str.strip_chars()
    usable = ids.is_not_null() & (ids != "")
    rows = pl.Series("row", np.arange(frame.height, dtype=np.int32))
    names = pl.select(pl.lit(prefix, dtype=pl.String) + ids).to_series()
    label_column = label_column or next((c for c in LABEL_COLUMNS if c in frame.columns), None)
    parts, reports = [], []
    for column in frame.columns:
        if column in (id_column, label_column) and column not in rules:
            continue
        rule = rules.get(column, ColumnRule())
        values = column_values(frame[column], rule)
        reports.append(values.report)
        parts.append(_edges(values.cells, names, usable, type, column, rule))
    labels = None
    if label_column is not None:
        text = frame[label_column].cast(pl.String)
        labels = pl.DataFrame({"name": names, "label": text}).filter(usable).drop_nulls()
    rejected = pl.DataFrame({"row": rows.filter(~usable)}).with_columns(
        pl.lit(f"no {id_column}").alias("reason")
    )
    entities = pl.DataFrame({"name": names.filter(usable)}).with_columns(pl.lit(type).alias("type"))
    empty = pl.DataFrame(schema=Facts.SCHEMA)
    return Facts.of(
        pl.concat([empty, *parts]),
        source,
        labels=labels,
        entities=entities.unique(maintain_order=True),
        rejected=rejected,
        columns=tuple(reports),
    )


def user_facts(frame: pl.DataFrame, id_column: str = "user_id", **choices: Any) -> Facts:
    """The same for a table of users, whose entities are named `user:<id>`: an item may have the same id."""
    return catalogue_facts(
        frame, id_column, **{"type": "user", "source": "users", "prefix": "user:", **choices}
    )


def _edges(
    cells: pl.DataFrame, names: pl.Series, usable: pl.Series, type: str, column: str, rule: ColumnRule
) -> pl.DataFrame:
    row = cells["row"].cast(pl.Int64)
    kept = cells.filter(usable.gather(row))
    tail_type = rule.type or column
    return pl.DataFrame(
        {
            "head": names.gather(kept["row"].cast(pl.Int64)),
            "relation": pl.repeat(rule.relation or column, kept.height, dtype=pl.String, eager=True),
            "tail": pl.select(pl.lit(f"{tail_type}:") + kept["value"]).to_series(),
            "row": kept["row"],
        }
    ).select(
        "head",
        pl.lit(type).alias("head_type"),
        "relation",
        "tail",
        pl.lit(tail_type).alias("tail_type"),
        "row",
    )


def triple_facts(
    frame: pl.DataFrame, *, source: str = "triples", labels: pl.DataFrame | None = None
) -> Facts:
    """Facts from a frame with the columns head, relation, tail (else its first three, in that order).

    Optional columns head_type, tail_type. labels: name and label of entities.
    """
    if frame.width < 3:
        raise BadInput(
            f"{source}: triples need three columns, got {frame.width}", hint="head, relation, tail"
        )
    named = all(c in frame.columns for c in ("head", "relation", "tail"))
    picked = ["head", "relation", "tail"] if named else frame.columns[:3]
    types = [
        (
            pl.col(c).cast(pl.String).fill_null(DEFAULT_TYPE)
            if named and c in frame.columns
            else pl.lit(DEFAULT_TYPE)
        )
        for c in ("head_type", "tail_type")
    ]
    h, r, t = (pl.col(c).cast(pl.String).str.strip_chars() for c in picked)
    facts = frame.select(
        h.alias("head"),
        types[0].alias("head_type"),
        r.alias("relation"),
        t.alias("tail"),
        types[1].alias("tail_type"),
        pl.int_range(pl.len(), dtype=pl.Int32).alias("row"),
    )
    return Facts.of(facts, source, labels=labels)


@dataclass(frozen=True)
class ConstructionReport:
    """Everything that happened on the way from tables to the graph."""

    entities: int
    edges: int
    relations: dict[str, int]  # edges of each
    types: dict[str, int]  # entities of each
    duplicates: int
    self_loops: int
    merged_inverses: dict[str, str]  # relation that was turned around: relation it is now an edge of
    columns: dict[str, list[dict[str, Any]]]  # source: what was done with each column
    rejected: dict[str, dict[str, int]]  # source: reason: rows

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Construction:
    graph: KnowledgeGraph
    report: ConstructionReport
    rejected: pl.DataFrame = field(repr=False)  # source, row, reason


def build(
    facts: Sequence[Facts],
    *,
    inverses: Mapping[str, str] | None = None,
    infer_inverses: bool = True,
) -> Construction:
    """The graph of all facts together.

    inverses: {relation: relation it is the inverse of}. With `infer_inverses`, a relation whose edges are
    the reverse of another's (Jaccard >= 0.9, at least 5 edges) is merged into it; the larger one stays, at a
    tie the alphabetically first. The first source of a repeated edge is its provenance. O(M log M).
    """
    if len(facts) > np.iinfo(np.uint16).max:
        raise BadInput(f"a graph has at most {np.iinfo(np.uint16).max} sources, got {len(facts)}")
    parts = [f.frame.with_columns(pl.lit(n, pl.UInt16).alias("source")) for n, f in enumerate(facts)]
    edges = pl.concat([pl.DataFrame(schema={**Facts.SCHEMA, "source": pl.UInt16}), *parts])
    types = _types(edges, facts)
    merged = {a: b for a, b in (inverses or {}).items() if a != b}
    edges = _turn(edges.select("head", "relation", "tail", "source", "row"), merged)
    loops = int((edges["head"] == edges["tail"]).sum())
    distinct = _distinct(edges.filter(pl.col("head") != pl.col("tail")))
    duplicates = edges.height - loops - distinct.height
    if infer_inverses:
        found = inferred_inverses(distinct)
        distinct = _distinct(_turn(distinct, found))  # what went into its inverse is merged, not a duplicate
        merged |= found
    labels = pl.concat([f.labels for f in facts]) if facts else None
    graph = assemble(
        distinct,
        types=types,
        labels=None if labels is None or labels.is_empty() else labels,
        sources=[f.source for f in facts] or [""],
    )
    return Construction(graph, _report(graph, facts, duplicates, loops, merged), _rejected(facts))


def _types(edges: pl.DataFrame, facts: Sequence[Facts]) -> pl.DataFrame:
    """name, type of every entity: a named type beats `entity`, then the first one given."""
    given = [f.entities for f in facts]
    heads = edges.select(pl.col("head").alias("name"), pl.col("head_type").alias("type"))
    tails = edges.select(pl.col("tail").alias("name"), pl.col("tail_type").alias("type"))
    every = pl.concat([pl.DataFrame(schema={"name": pl.String, "type": pl.String}), *given, heads, tails])
    distinct = every.unique(maintain_order=True)
    return distinct.sort(pl.col("type") == DEFAULT_TYPE, maintain_order=True)


def _turn(edges: pl.DataFrame, inverses: Mapping[str, str]) -> pl.DataFrame:
    """Edges of inverse relations turned around and renamed."""
    if not inverses:
        return edges
    inverse = pl.col("relation").is_in(list(inverses))
    return edges.select(
        pl.when(inverse).then("tail").otherwise("head").alias("head"),
        pl.col("relation").replace(dict(inverses)),
        pl.when(inverse).then("head").otherwise("tail").alias("tail"),
        "source",
        "row",
    )


def _distinct(edges: pl.DataFrame) -> pl.DataFrame:
    return edges.unique(["head", "relation", "tail"], keep="first", maintain_order=True)


def inferred_inverses(edges: pl.DataFrame) -> dict[str, str]:
    """{relation: the relation it is the reverse of}, from the edges alone. Relations that are their own
    reverse take no part. O(M log M)."""
    sizes = dict(edges["relation"].value_counts().iter_rows())
    turned = edges.select(pl.col("tail").alias("head"), pl.col("head").alias("tail"), "relation")
    both = edges.select("head", "tail", "relation").join(turned, on=["head", "tail"], suffix="_of")
    pairs = both.group_by("relation", "relation_of").len().sort("len", "relation", descending=[True, False])
    own = {a for a, b, n in pairs.iter_rows() if a == b and n == sizes[a]}
    found: dict[str, str] = {}
    for a, b, shared in pairs.iter_rows():
        if a == b or {a, b} & own or shared < _FEWEST_PAIRS:
            continue
        if shared / (sizes[a] + sizes[b] - shared) < _SAME_PAIRS or {a, b} & (
            found.keys() | set(found.values())
        ):
            continue
        kept, turned_name = sorted((a, b), key=lambda r: (-sizes[r], r))
        found[turned_name] = kept
    return found


def _report(
    graph: KnowledgeGraph, facts: Sequence[Facts], duplicates: int, loops: int, merged: Mapping[str, str]
) -> ConstructionReport:
    rejected: dict[str, dict[str, int]] = {}
    for fact in facts:
        if fact.rejected.height:
            counts = fact.rejected["reason"].value_counts().sort("reason")
            rejected[fact.source] = dict(counts.iter_rows())
    return ConstructionReport(
        entities=graph.entity_count,
        edges=graph.edge_count,
        relations=_counted(graph.relations.to_list(), graph.relation),
        types=_counted(graph.types.to_list(), graph.entity_type),
        duplicates=duplicates,
        self_loops=loops,
        merged_inverses=dict(merged),
        columns={f.source: [asdict(c) for c in f.columns] for f in facts if f.columns},
        rejected=rejected,
    )


def _counted(names: list[str], numbers: NDArray[np.uint16]) -> dict[str, int]:
    counts = np.bincount(numbers, minlength=len(names)).tolist()
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _rejected(facts: Sequence[Facts]) -> pl.DataFrame:
    none = pl.DataFrame(schema={"source": pl.String, "row": pl.Int32, "reason": pl.String})
    return pl.concat(
        [none, *(f.rejected.select(pl.lit(f.source).alias("source"), "row", "reason") for f in facts)]
    )


def graph_from_catalogue(frame: pl.DataFrame, id_column: str, **choices: Any) -> Construction:
    """`build` of one table; choices as in `catalogue_facts`."""
    return build([catalogue_facts(frame, id_column, **choices)])


def graph_from_triples(frame: pl.DataFrame, **choices: Any) -> Construction:
    """`build` of one frame of triples; choices as in `triple_facts`."""
    return build([triple_facts(frame, **choices)])

"""Tables and triples into a graph: typed entities, merged inverses, and a report of every decision.

Nothing here is silent: what was skipped, dropped, merged or refused is in the report, with row numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.errors import BadInput
from slipstream.graph.columns import ColumnReport, ColumnRule, column_values
from slipstream.graph.knowledge_graph import DEFAULT_TYPE, KnowledgeGraph, assemble
from slipstream.graph.merging import Edges, Names, inverse_relations
from slipstream.graph.oddities import cycles, hubs

LONGEST_NAME = 2_000  # bytes
LABEL_COLUMNS = ("label", "title", "name", "Title", "Name")
_UNPRINTABLE = r"[\x00-\x1f\x7f]"


@dataclass(frozen=True)
class Facts:
    """Typed edges of one source, before they are joined with others.

    frame: SCHEMA; rejected: row, reason; labels: name, label, foreign (not in a language that is preferred,
    whichever comes first); entities: name, type, also of the edgeless.
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
        if labels is None:
            labels = pl.DataFrame(schema={"name": pl.String, "label": pl.String})
        if "foreign" not in labels.columns:
            labels = labels.with_columns(pl.lit(False).alias("foreign"))
        return cls(
            frame=good,
            source=source,
            labels=labels.select("name", "label", "foreign"),
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
    hubs: dict[str, int]  # entities with very many edges
    cycles: dict[str, int]  # relation: entities from which it leads back to them

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Construction:
    graph: KnowledgeGraph
    report: ConstructionReport
    rejected: pl.DataFrame = field(repr=False)  # source, row, reason


def build(
    facts: Iterable[Facts],
    *,
    inverses: Mapping[str, str] | None = None,
    infer_inverses: bool = True,
) -> Construction:
    """The graph of all facts together; facts of one source may come in several chunks.

    inverses: {relation: relation it is the inverse of}. With `infer_inverses`, a relation whose edges are
    the reverse of another's (Jaccard >= 0.9, at least 5 edges) is merged into it; the larger one stays, at a
    tie the alphabetically first. The first source of a repeated edge is its provenance. O(M log M) time; the
    texts of one chunk, every name once, and about 60 bytes an edge.
    """
    gathered = _Gathered()
    for fact in facts:
        gathered.add(fact)
    relations = gathered.relations.to_list()
    declared = {a: b for a, b in (inverses or {}).items() if a != b and a in relations}
    for kept in declared.values():
        if kept not in relations:
            gathered.relations.add(pl.Series([kept], dtype=pl.String))
    relations = gathered.relations.to_list()
    number = {name: place for place, name in enumerate(relations)}
    entity_type, names = gathered.entity_types(), gathered.all_names()
    edges = gathered.all_edges().turned({number[a]: number[b] for a, b in declared.items()})
    given = len(edges)
    edges = edges.take(edges.head != edges.tail)
    straight = len(edges)
    edges = edges.distinct()
    loops, duplicates = given - straight, straight - len(edges)
    merged = dict(declared)
    if infer_inverses:
        found = inverse_relations(edges, relations)
        if found:  # what went into its inverse is merged, not a duplicate
            edges = edges.turned(found).distinct()
        merged |= {relations[a]: relations[b] for a, b in found.items()}
    graph = assemble(
        edges,
        names=names,
        entity_type=entity_type,
        types=gathered.types.to_list(),
        relations=relations,
        labels=gathered.all_labels(),
        sources=gathered.sources.to_list() or [""],
    )
    return Construction(graph, _report(graph, gathered, duplicates, loops, merged), gathered.rejected_rows())


class _Gathered:
    """What the facts add up to, in numbers, while they come in."""

    def __init__(self) -> None:
        self.names, self.types, self.relations, self.sources = Names(), Names(), Names(), Names()
        self.parts: list[Edges] = []
        self.labels: list[pl.DataFrame] = []
        self.rejected: list[pl.DataFrame] = []
        self.columns: dict[str, list[dict[str, Any]]] = {}
        self._stated: list[NDArray[np.int32]] = [np.zeros(0, np.int32)] * 3

    def add(self, fact: Facts) -> None:
        frame, source = fact.frame, self.sources.add(pl.Series([fact.source], dtype=pl.String))
        if len(self.sources) > np.iinfo(np.uint16).max or len(self.relations) > np.iinfo(np.uint16).max:
            raise BadInput(f"a graph has at most {np.iinfo(np.uint16).max} sources, and as many relations")
        listed = self.names.add(fact.entities["name"])
        ends = self.names.add(pl.concat([frame["head"], frame["tail"]]))
        head, tail = ends[: frame.height], ends[frame.height :]
        self._state(0, listed, fact.entities["type"])
        self._state(1, head, frame["head_type"])
        self._state(2, tail, frame["tail_type"])
        relation = self.relations.add(frame["relation"]).astype(np.uint16)
        row = frame["row"].to_numpy()
        if len(head):
            self.parts.append(Edges(head, relation, tail, np.full(len(head), source[0], np.uint16), row))
        if fact.labels.height:
            self.labels.append(fact.labels)
        if fact.rejected.height:
            named = fact.rejected.select(pl.lit(fact.source).alias("source"), "row", "reason")
            self.rejected.append(named)
        if fact.columns:
            self.columns[fact.source] = [asdict(c) for c in fact.columns]

    def _state(self, place: int, entity: NDArray[np.int32], types: pl.Series) -> None:
        """Keep the first named type of each entity, apart for listed ones, heads and tails."""
        stated = np.full(len(self.names), -1, np.int32)
        stated[: len(self._stated[place])] = self._stated[place]
        named = (types != DEFAULT_TYPE).to_numpy()
        if named.any():
            number = self.types.add(types.filter(pl.Series(named)))
            who = entity[named]
            open_ = stated[who] < 0
            stated[who[open_][::-1]] = number[open_][::-1]  # the first one of an entity wins
        self._stated[place] = stated

    def entity_types(self) -> NDArray[np.uint16]:
        """[names] the type of each: stated by a table, else of a head, else of a tail, else `entity`."""
        default = self.types.add(pl.Series([DEFAULT_TYPE], dtype=pl.String))[0]
        chosen = np.full(len(self.names), -1, np.int32)
        for stated in self._stated:
            open_ = np.flatnonzero(chosen[: len(stated)] < 0)
            chosen[open_] = stated[open_]
        return np.where(chosen < 0, default, chosen).astype(np.uint16)

    def all_names(self) -> pl.Series:
        """The names in the order of their numbers; the numbers are forgotten, for room."""
        names = pl.Series("name", self.names.to_list(), pl.String)
        self.names = Names()
        return names

    def all_edges(self) -> Edges:
        """All edges, handed over."""
        parts, self.parts = self.parts, []
        return Edges.joined(parts)

    def all_labels(self) -> pl.DataFrame | None:
        """name, label: the one to take of each name comes first."""
        if not self.labels:
            return None
        return pl.concat(self.labels).sort("foreign", maintain_order=True).select("name", "label")

    def rejected_rows(self) -> pl.DataFrame:
        none = pl.DataFrame(schema={"source": pl.String, "row": pl.Int32, "reason": pl.String})
        return pl.concat([none, *self.rejected])


def _report(
    graph: KnowledgeGraph, gathered: _Gathered, duplicates: int, loops: int, merged: Mapping[str, str]
) -> ConstructionReport:
    counts = gathered.rejected_rows().group_by("source", "reason").len().sort("source", "reason")
    rejected: dict[str, dict[str, int]] = {}
    for source, reason, count in counts.iter_rows():
        rejected.setdefault(source, {})[reason] = count
    return ConstructionReport(
        entities=graph.entity_count,
        edges=graph.edge_count,
        relations=_counted(graph.relations.to_list(), graph.relation),
        types=_counted(graph.types.to_list(), graph.entity_type),
        duplicates=duplicates,
        self_loops=loops,
        merged_inverses=dict(merged),
        columns=gathered.columns,
        rejected=rejected,
        hubs=hubs(graph),
        cycles=cycles(graph),
    )


def _counted(names: list[str], numbers: NDArray[np.uint16]) -> dict[str, int]:
    counts = np.bincount(numbers, minlength=len(names)).tolist()
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def graph_from_catalogue(frame: pl.DataFrame, id_column: str, **choices: Any) -> Construction:
    """`build` of one table; choices as in `catalogue_facts`."""
    return build([catalogue_facts(frame, id_column, **choices)])


def graph_from_triples(frame: pl.DataFrame, **choices: Any) -> Construction:
    """`build` of one frame of triples; choices as in `triple_facts`."""
    return build([triple_facts(frame, **choices)])

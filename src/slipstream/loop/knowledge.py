"""The knowledge graph of a home: its catalogue, people, triples and other tables, joined by links.

An entity that is linked to an item becomes that item: in the graph, in reasons and in exports an item is its
item id. Built anew by `prepare`, as one artifact with the links and the reports beside the edges.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from slipstream.artifacts import open_artifact, writing
from slipstream.config import Home, Progress, silent
from slipstream.dataset.snapshot import Snapshot
from slipstream.errors import BadInput, CorruptArtifact, UsageError
from slipstream.events.shaping import id_texts
from slipstream.graph.construction import Facts, build, catalogue_facts, user_facts
from slipstream.graph.knowledge_graph import KnowledgeGraph
from slipstream.graph.linked_graph import LinkedGraph, join
from slipstream.graph.linking import Links, candidates_of, link
from slipstream.graph.triple_files import read_triples
from slipstream.loop.tables import add_file, kept_files, read_kept, read_table_of, write_parquet

KIND = "home-graph"
MADE_BY = "give the home a catalogue or triples, then run `slipstream prepare`"


@dataclass(frozen=True)
class GraphReport:
    """What was built and what was linked."""

    entities: int
    edges: int
    relations: Mapping[str, int]
    construction: Mapping[str, Any]
    links: Mapping[str, Any] | None

    def lines(self) -> list[str]:
        told = [f"{self.entities:,} entities, {self.edges:,} edges, {len(self.relations)} relations"]
        top = sorted(self.relations.items(), key=lambda pair: -pair[1])
        told.append("edges by relation: " + ", ".join(f"{name} {count:,}" for name, count in top[:12]))
        for name in ("duplicates", "self_loops"):
            if count := self.construction.get(name):
                told.append(f"{name.replace('_', ' ')}: {count:,}")
        for name in ("hubs", "cycles"):
            if found := self.construction.get(name):
                told.append(f"{name}: " + ", ".join(f"{what} {count:,}" for what, count in found.items()))
        if merged := self.construction.get("merged_inverses"):
            told.append("merged inverses: " + ", ".join(f"{a} into {b}" for a, b in merged.items()))
        for source, reasons in self.construction.get("rejected", {}).items():
            told.append(
                f"rejected of {source}: " + ", ".join(f"{n:,} with {why}" for why, n in reasons.items())
            )
        if self.links is not None:
            methods = ", ".join(f"{m} {n:,}" for m, n in self.links["methods"].items())
            told.append(f"links: {self.links['linked']:,} items linked ({methods})")
            reasons = ", ".join(f"{r} {n:,}" for r, n in self.links["reasons"].items())
            told.append(
                f"abstained: {self.links['unlinked']:,} items ({reasons})" if reasons else "abstained: none"
            )
            for name in ("entities_shared", "links_to_unknown_ids", "links_of_unknown_items", "second_links"):
                if count := self.links.get(name):
                    told.append(f"{name.replace('_', ' ')}: {count:,}")
        return told


def _named(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
    """The first columns under these names."""
    first = frame.columns[: len(names)]
    return frame.select(first).rename(dict(zip(first, names, strict=True)))


def _as_ids(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
    return pl.DataFrame({name: id_texts(frame[name]) for name in names})


def add_triples(home: Home, frame: pl.DataFrame) -> int:
    """Keep triples (head, relation, tail; or the first three columns). Returns the rows kept."""
    if not {"head", "relation", "tail"} <= set(frame.columns):
        if frame.width < 3:
            raise BadInput(
                "triples need three columns: head, relation, tail", hint=f"columns: {frame.columns}"
            )
        frame = _named(frame, "head", "relation", "tail")
    add_file(home, _as_ids(frame, "head", "relation", "tail"), "triples")
    return frame.height


@dataclass(frozen=True)
class TripleFile:
    """What a file of triples holds: `rejected` counts rows by reason, `first` is an example with its line."""

    triples: int
    rejected: Mapping[str, int]
    first: str


def add_triple_file(home: Home, path: Path) -> TripleFile:
    """Keep a file of triples as it is, so that provenance can name its lines. It is read through once here.

    Text tables, Parquet, RecBole `.kg`, N-Triples, Turtle (graph/triple_files.py). Raises BadInput, and keeps
    nothing, where no line is a triple. The same content twice is kept once.
    """
    triples, rejected, first = 0, Counter[str](), ""
    for facts in read_triples(path):
        triples += facts.frame.height
        for line, reason in facts.rejected.iter_rows():
            first = first or f"line {line}: {reason}"
            rejected[reason] += 1
    if not triples:
        raise BadInput(f"no line of {path.name} is a triple", hint=first or "head, relation, tail")
    digest = _digest(path)
    if not list(home.triples.glob(f"triples-{digest}-*")):
        home.triples.mkdir(parents=True, exist_ok=True)
        beside = home.triples / f".{digest}.writing"
        shutil.copyfile(path, beside)
        beside.replace(home.triples / f"triples-{digest}-{path.name}")
    return TripleFile(triples, dict(rejected), first)


def add_people_edges(home: Home, frame: pl.DataFrame, relation: str) -> int:
    """Keep edges between people (friends, trust): the first two columns are user ids. Returns the rows kept.

    People are entities named `user:<id>`, so they are linked by id and never by likeness.
    """
    if frame.width < 2:
        raise BadInput("edges between people need two columns of user ids", hint=f"columns: {frame.columns}")
    frame = _named(frame, "head", "tail")
    head, tail = (pl.lit("user:") + id_texts(frame[end]) for end in frame.columns)
    user = pl.lit("user")
    edges = frame.select(
        head.alias("head"),
        pl.lit(relation).alias("relation"),
        tail.alias("tail"),
        user.alias("head_type"),
        user.alias("tail_type"),
    )
    add_file(home, edges, "triples")
    return frame.height


def add_links(home: Home, frame: pl.DataFrame, *, by_hand: bool = False) -> int:
    """Keep links (item_id, entity_id; or the first two columns). Returns the rows kept.

    Links by hand win over all others, and a later one over an earlier one of the same item; an empty
    entity_id forbids every link of its item.
    """
    if not {"item_id", "entity_id"} <= set(frame.columns):
        if frame.width < 2:
            raise BadInput("links need two columns: item_id, entity_id", hint=f"columns: {frame.columns}")
        frame = _named(frame, "item_id", "entity_id")
    frame = _as_ids(frame, "item_id", "entity_id")
    if not by_hand:
        add_file(home, frame, "links")
        return frame.height
    old = _links_by_hand(home)
    newest = frame.unique("item_id", keep="last", maintain_order=True)
    merged = newest if old is None else pl.concat([newest, old]).unique("item_id", keep="first")
    write_parquet(merged.sort("item_id"), home.triples / _BY_HAND)
    return frame.height


_BY_HAND = "by-hand.parquet"


def _links_by_hand(home: Home) -> pl.DataFrame | None:
    path = home.triples / _BY_HAND
    return read_kept(path) if path.exists() else None


def add_entities(home: Home, frame: pl.DataFrame, id_column: str, kind: str) -> int:
    """Keep a table of other things (films of a film catalogue, say) that items can be linked to by title."""
    if id_column not in frame.columns:
        raise BadInput(f"the table has no column {id_column!r}", hint="columns: " + ", ".join(frame.columns))
    if not re.fullmatch(r"\w{1,64}", kind):  # it names a file and the type of the entities
        raise UsageError(f"a kind is a word of letters, digits and _, got {kind[:80]!r}", hint="--kind film")
    named = frame.with_columns((pl.lit(f"{kind}:") + id_texts(frame[id_column])).alias("entity_id"))
    rest = [c for c in frame.columns if c != id_column]
    add_file(home, named.select("entity_id", *rest), f"entities.{kind}")
    return frame.height


def build_graph(home: Home, progress: Progress = silent) -> GraphReport | None:
    """Build the graph of everything the home holds and write it; None if the home holds nothing for one.

    Files of triples are read a block at a time, twice if their entities are to be linked.
    """
    items, users = read_table_of(home, "items"), read_table_of(home, "users")
    tables = {path: read_kept(path) for path in kept_files(home, "entities.*")}
    has_others = bool(tables or _triple_paths(home))
    facts = [] if items is None else [catalogue_facts(items, "item_id", source="items")]
    if users is not None:
        facts.append(user_facts(users))
    if not facts and not has_others:
        return None
    others = _other_facts(home, tables)
    links = None
    if items is not None and has_others:
        links = _links(home, items, tables, progress)
        ids = items["item_id"].cast(pl.String)
        others = (_in_terms_of_items(f, links.links, ids) for f in others)
    construction = build(chain(facts, others))
    report = GraphReport(
        entities=construction.graph.entity_count,
        edges=construction.graph.edge_count,
        relations=construction.report.relations,
        construction=construction.report.to_json(),
        links=None if links is None else links.to_json(),
    )
    _write(home, construction.graph, links, report)
    return report


def _triple_paths(home: Home) -> list[Path]:
    return sorted(home.triples.glob("triples-*"))


def _triples(home: Home) -> Iterator[Facts]:
    """A block at a time; the source is the name that the file had when it was added."""
    for path in _triple_paths(home):
        kept = re.fullmatch(r"triples-([0-9a-f]{12})-(.+)", path.name)
        try:
            if kept and _digest(path) != kept[1]:
                raise BadInput("another content than its name says")
            yield from read_triples(path, source=kept[2] if kept else path.name)
        except (BadInput, pl.exceptions.PolarsError) as error:
            hint = "remove it and add its source again"
            raise CorruptArtifact(f"{path} was changed after it was written", hint=hint) from error


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def _other_facts(home: Home, tables: Mapping[Path, pl.DataFrame]) -> Iterator[Facts]:
    yield from _triples(home)
    for path, table in tables.items():
        kind = path.name.split(".")[1].rsplit("-", 1)[0]
        yield catalogue_facts(table, "entity_id", type=kind, source=path.name)


def _links(home: Home, items: pl.DataFrame, tables: Mapping[Path, pl.DataFrame], progress: Progress) -> Links:
    given = [read_kept(path) for path in kept_files(home, "links")]
    named = [_candidates(table) for table in tables.values()]
    if _triple_paths(home):
        # facts tell a film from its namesakes; beside a table, whose rows have none, they would mislead
        columns = ["id", "label"] if tables else ["id", "label", "facts"]
        named.append(candidates_of(build(_triples(home)).graph).select(columns))
    return link(
        items,
        pl.concat(named, how="diagonal"),
        explicit=pl.concat(given) if given else None,
        overrides=_links_by_hand(home),
        progress=progress,
    )


def _candidates(table: pl.DataFrame) -> pl.DataFrame:
    label = next((c for c in ("label", "title", "name") if c in table.columns), None)
    year = next((c for c in ("year", "release_year") if c in table.columns), None)
    columns = [pl.col("entity_id").alias("id"), pl.col(label or "entity_id").cast(pl.String).alias("label")]
    if year:
        columns.append(pl.col(year).cast(pl.Int64, strict=False).alias("year"))
    return table.select(columns)


def _in_terms_of_items(facts: Facts, links: pl.DataFrame, ids: pl.Series) -> Facts:
    """The facts with every linked entity replaced by its item; by each of them if several share it.

    An entity that is linked to nothing and bears the name of an item is another thing: `entity:<name>`.
    """
    names = links.select(pl.col("entity_id").alias("name"), pl.col("item_id"))
    alike = pl.DataFrame({"name": ids}).join(names, on="name", how="anti")
    names = pl.concat([names, alike.select("name", (pl.lit("entity:") + pl.col("name")).alias("item_id"))])

    def renamed(frame: pl.DataFrame, column: str) -> pl.DataFrame:
        joined = frame.join(names, left_on=column, right_on="name", how="left", maintain_order="left")
        return joined.with_columns(pl.coalesce("item_id", column).alias(column)).select(frame.columns)

    known, linked = ids.implode(), pl.col("name").is_in(links["entity_id"].implode())
    frame = renamed(renamed(facts.frame, "head"), "tail").with_columns(
        pl.when(pl.col(end).is_in(known)).then(pl.lit("item")).otherwise(f"{end}_type").alias(f"{end}_type")
        for end in ("head", "tail")
    )
    return replace(
        facts,
        frame=frame,
        labels=renamed(facts.labels.filter(~linked), "name"),
        entities=renamed(facts.entities.filter(~linked), "name"),
    )


def _write(home: Home, graph: KnowledgeGraph, links: Links | None, report: GraphReport) -> None:
    with writing(home.graph, KIND) as writer:
        with writer.part("graph", "graph") as part:
            graph.write_into(part)
        if links is not None:
            links.links.write_parquet(writer.file("links.parquet"))
            links.unlinked.write_parquet(writer.file("unlinked.parquet"))
        writer.json("report", {"construction": report.construction, "links": report.links})


def read_graph(home: Home) -> KnowledgeGraph:
    """The home's graph by itself. Raises NotThere if there is none."""
    return KnowledgeGraph.read(open_artifact(home.graph, KIND, made_by=MADE_BY).part("graph"))


def open_graph(home: Home, snapshot: Snapshot) -> LinkedGraph | None:
    """The home's graph joined with a snapshot, or None if there is none."""
    if not home.graph.exists():
        return None
    artifact = open_artifact(home.graph, KIND, made_by=MADE_BY)
    graph = KnowledgeGraph.read(artifact.part("graph"))
    ids = snapshot.items.series("item_id")
    same = pl.DataFrame(
        {"item_id": ids, "entity_id": ids, "confidence": pl.Series([1.0] * len(ids), dtype=pl.Float32)}
    )
    if artifact.has("links.parquet"):
        found = pl.read_parquet(artifact.file("links.parquet")).select("item_id", link="confidence")
        same = same.join(found, on="item_id", how="left", maintain_order="left").with_columns(
            pl.coalesce("link", "confidence").alias("confidence")
        )
    return join(graph, same, snapshot.items, snapshot.users)


def read_links(home: Home) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(links, items that were not linked with their nearest candidates) of the home's graph."""
    artifact = open_artifact(home.graph, KIND, made_by=MADE_BY)
    if not artifact.has("links.parquet"):
        raise BadInput(
            "nothing was linked in this home", hint="add triples or a table with `slipstream graph add`"
        )
    return pl.read_parquet(artifact.file("links.parquet")), pl.read_parquet(artifact.file("unlinked.parquet"))

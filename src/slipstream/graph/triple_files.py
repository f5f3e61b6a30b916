"""Files of triples as facts, a chunk at a time: text tables, Parquet, RecBole `.kg`, N-Triples, Turtle.

A line that is no triple is rejected by its number, and never spoils its neighbours. The row of a fact is the
number of its line from 1 (of Parquet and Turtle, which have no lines, the number of the triple from 1).

RDF: names are IRIs as they are written. `rdf:type` is an edge and gives its subject a type, named by the last
part of the class. `rdfs:label`, `skos:prefLabel`, `schema:name` and `foaf:name` are labels (English or
without a language before others). Any other literal is a value and no entity: it is counted as rejected. A
blank node is an entity of type `blank` named `_:FILE:LABEL`, as its label means nothing outside its file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import polars as pl

from slipstream.errors import BadInput, MissingExtra
from slipstream.events.chunks import Chunk
from slipstream.events.delimited import DelimitedForm, Head, read_head, read_rows
from slipstream.events.frames import frame_names, read_frame_rows, scan_parquet
from slipstream.events.lines import blocks, reading
from slipstream.graph.construction import Facts, triple_facts
from slipstream.graph.knowledge_graph import DEFAULT_TYPE

BLOCK_BYTES = 4 << 20  # read at a time
HEAD_BYTES = 1 << 16
BLANK = "blank"
_HEADERS = ("head", "head_id", "subject", "h", "s")
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_LABELS = (
    "http://www.w3.org/2000/01/rdf-schema#label",
    "http://www.w3.org/2004/02/skos/core#prefLabel",
    "http://schema.org/name",
    "https://schema.org/name",
    "http://xmlns.com/foaf/0.1/name",
)
_TERM = r"<[^<>\s]*>|_:[^\s<>\"]+"
_LITERAL = r"\"(?:[^\"\\]|\\.)*\"(?:@[A-Za-z0-9-]+|\^\^<[^<>\s]*>)?"
_TRIPLE = rf"^\s*({_TERM})\s+<([^<>\s]*)>\s+({_TERM}|{_LITERAL})\s*\.\s*(?:#.*)?$"


def read_triples(path: Path, *, source: str | None = None) -> Iterator[Facts]:
    """The facts of a file, its form told by its ending: .nt, .ttl, .parquet, else a text table.

    A text table has the columns head, relation, tail, or its first three are these; a first line that names
    them is a header. source: what provenance calls the file, default its name. Memory: one block of 4 MiB.
    """
    path, name = Path(path), source or Path(path).name
    suffix = next((s for s in reversed(path.suffixes) if s != ".gz"), "").lower()
    if suffix in (".nt", ".ntriples"):
        return _n_triples(path, name)
    if suffix in (".ttl", ".turtle"):
        return _turtle(path, name)
    return _parquet(path, name) if suffix in (".parquet", ".pq") else _table(path, name)


def _parquet(path: Path, source: str) -> Iterator[Facts]:
    table = scan_parquet(path)
    for chunk in read_frame_rows(table, frame_names(table)):
        yield _numbered(triple_facts(chunk.frame, source=source), chunk)


def _table(path: Path, source: str) -> Iterator[Facts]:
    with reading(path) as (stream, _):
        start = stream.read(HEAD_BYTES)
        stream.seek(0)
        head = _head(path.name, start)
        if len(head.names) < 3:
            raise BadInput(
                f"{path.name}: triples need three columns, got {len(head.names)}", hint="head, relation, tail"
            )
        for chunk in read_rows(stream, head):
            yield _numbered(triple_facts(chunk.frame, source=source), chunk)


def _head(where: str, start: bytes) -> Head:
    form = DelimitedForm(has_header=True, block_bytes=BLOCK_BYTES)
    named = read_head(where, start, form)
    if named.names[0].lower() in _HEADERS:
        return named
    return read_head(where, start, replace(form, has_header=False))


def _numbered(facts: Facts, chunk: Chunk) -> Facts:
    """The facts of a chunk with the numbers of their lines, and the lines that were no rows."""
    lines = pl.Series("row", chunk.lines.astype(np.int32))
    faults = _rejected([(fault.line, fault.detail) for fault in chunk.faults])
    frame, rejected = (
        part.with_columns(lines.gather(part["row"].cast(pl.Int64)).alias("row"))
        for part in (facts.frame, facts.rejected)
    )
    return replace(facts, frame=frame, rejected=pl.concat([rejected, faults]))


def _rejected(rows: list[tuple[int, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"row": pl.Int32, "reason": pl.String}, orient="row")


def _n_triples(path: Path, source: str) -> Iterator[Facts]:
    """Line by line, with no library: the grammar of a line is regular (RDF 1.1 N-Triples, section 7)."""
    with reading(path) as (stream, _):
        for block in blocks(stream, size=BLOCK_BYTES):
            texts = _decoded(block.text)
            rows = pl.int_range(block.first, block.first + len(texts), dtype=pl.Int32, eager=True)
            said = ~texts.str.contains(r"^\s*(?:#|$)")
            groups = texts.str.extract_groups(_TRIPLE).struct.unnest()
            groups.columns = ["s", "p", "o"]
            frame = groups.with_columns(rows.alias("row")).filter(said)
            broken = frame.filter(pl.col("s").is_null())["row"]
            overlong = [(fault.line, fault.detail) for fault in block.faults()]
            bad = [_reason(broken, "malformed N-Triples line"), _rejected(overlong)]
            bad.append(_reason(rows.filter(texts.is_null()), "the line is not UTF-8"))
            yield _rdf_facts(frame.drop_nulls("s"), source, pl.concat(bad))


def _decoded(text: bytes) -> pl.Series:
    """The lines; null for one that is not UTF-8."""
    try:
        lines: list[str | None] = list(text.decode().split("\n")[:-1])
    except UnicodeDecodeError:
        lines = [_line(line) for line in text.split(b"\n")[:-1]]
    return pl.Series("text", lines, pl.String)


def _line(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None


def _reason(rows: pl.Series, reason: str) -> pl.DataFrame:
    return pl.DataFrame({"row": rows.cast(pl.Int32)}).with_columns(pl.lit(reason).alias("reason"))


def _turtle(path: Path, source: str) -> Iterator[Facts]:
    """The whole file by rdflib (extra `rdf`), handed on as N-Triples. A syntax error names its line."""
    try:
        import rdflib
        from rdflib.plugins.parsers.notation3 import BadSyntax
    except ImportError as error:
        raise MissingExtra("rdflib", "rdf", "reading Turtle") from error
    graph = rdflib.Graph()
    try:
        with reading(path) as (stream, _):
            graph.parse(cast(IO[bytes], stream), format="turtle")
    except BadSyntax as error:
        line = int(error.lines) + 1
        raise BadInput(f"{path.name}, line {line}: {_why(error)}", hint="it must be Turtle") from error
    rows = sorted((s.n3(), str(p), o.n3()) for s, p, o in graph)
    frame = pl.DataFrame(rows, schema={"s": pl.String, "p": pl.String, "o": pl.String}, orient="row")
    yield _rdf_facts(frame.with_row_index("row", offset=1).cast({"row": pl.Int32}), source, _rejected([]))


def _why(error: Any) -> str:
    return str(getattr(error, "_why", "") or "a syntax error").replace("\n", " ")[:200]


def _rdf_facts(frame: pl.DataFrame, source: str, rejected: pl.DataFrame) -> Facts:
    """frame: s, p, o as N-Triples writes them (p without brackets), row."""
    literal = pl.col("o").str.starts_with('"')
    edges = frame.filter(~literal)
    head, tail = (_entity(edges[column], source) for column in ("s", "o"))
    relation = _unescaped(edges["p"])
    is_type = relation == f"{_RDF}type"
    stated = pl.DataFrame({"name": head, "type": _last_part(tail)}).filter(is_type)
    blank = pl.concat([head, tail]).unique(maintain_order=True)
    blank = blank.filter(blank.str.starts_with("_:"))
    entities = pl.concat([stated, pl.DataFrame({"name": blank}).with_columns(pl.lit(BLANK).alias("type"))])
    spoken = frame.filter(literal)
    is_label = pl.col("p").is_in(_LABELS)
    values = spoken.filter(~is_label)["row"]
    return Facts.of(
        pl.DataFrame({"head": head, "relation": relation, "tail": tail, "row": edges["row"]}).with_columns(
            pl.lit(DEFAULT_TYPE).alias("head_type"), pl.lit(DEFAULT_TYPE).alias("tail_type")
        ),
        source,
        labels=_labels(spoken.filter(is_label), source),
        entities=entities.unique("name", keep="first", maintain_order=True),
        rejected=pl.concat([rejected, _reason(values, "a literal is a value, no entity")]),
    )


def _entity(terms: pl.Series, source: str) -> pl.Series:
    """IRIs without brackets; blank nodes with their file in the name."""
    frame = pl.DataFrame({"term": terms})
    iri = pl.col("term").str.strip_chars("<>")
    blank = pl.lit(f"_:{source}:") + pl.col("term").str.strip_prefix("_:")
    named = frame.select(pl.when(pl.col("term").str.starts_with("_:")).then(blank).otherwise(iri))
    return _unescaped(named.to_series())


def _last_part(iris: pl.Series) -> pl.Series:
    parts = iris.str.strip_chars_end("/#").str.extract(r"([^/#]+)$")
    return pl.select(pl.coalesce(parts, iris)).to_series()


def _labels(spoken: pl.DataFrame, source: str) -> pl.DataFrame:
    """name, label, foreign: neither English nor without a language."""
    text = spoken["o"].str.extract(r'^"((?:[^"\\]|\\.)*)"')
    language = spoken["o"].str.extract(r'"@([A-Za-z0-9-]+)$').fill_null("")
    foreign = ~language.str.to_lowercase().str.contains(r"^(?:en(?:-.*)?)?$")
    return pl.DataFrame({"name": _entity(spoken["s"], source), "label": _unescaped(text), "foreign": foreign})


_ESCAPES = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", '"': '"', "'": "'", "\\": "\\"}


def _unescaped(texts: pl.Series) -> pl.Series:
    """`\\uXXXX` and the like as the letters they stand for; most texts have none and cost nothing."""
    escaped = texts.str.contains("\\", literal=True)
    if not escaped.any():
        return texts
    return pl.Series(
        texts.name,
        [_plain(text) if marked else text for text, marked in zip(texts, escaped, strict=True)],
        pl.String,
    )


def _plain(text: str) -> str:
    letters, place = [], 0
    while place < len(text):
        if text[place] != "\\":
            letters.append(text[place])
            place += 1
            continue
        kind = text[place + 1 : place + 2]
        width = {"u": 4, "U": 8}.get(kind, 0)
        digits = text[place + 2 : place + 2 + width]
        if width and len(digits) == width and all(c in "0123456789abcdefABCDEF" for c in digits):
            code = int(digits, 16)
            letters.append(chr(code) if code <= 0x10FFFF and not 0xD800 <= code < 0xE000 else "\ufffd")
            place += 2 + width
        else:
            letters.append(_ESCAPES.get(kind, kind))
            place += 2
    return "".join(letters)

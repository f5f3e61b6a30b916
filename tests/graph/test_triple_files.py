"""Files of triples: every form gives the same edges, with the line each came from; bad lines are named."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from slipstream.errors import BadInput, MissingExtra
from slipstream.graph import triple_files
from slipstream.graph.construction import Construction, build
from slipstream.graph.triple_files import read_triples

ROWS = [("a", "likes", "b"), ("b", "likes", "c"), ("c", "knows", "a b")]


def built(path: Path) -> Construction:
    return build(read_triples(path), infer_inverses=False)


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def provenance(done: Construction) -> dict[tuple[str, str, str], tuple[str, int]]:
    return {row: done.graph.provenance(n) for n, row in enumerate(done.graph.triples().iter_rows())}


BODY = "".join("\t".join(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "text", "first_line"),
    [
        ("x.tsv", BODY, 1),
        ("x.tsv", "head\trelation\ttail\n" + BODY, 2),
        ("x.kg", "head_id:token\trelation_id:token\ttail_id:token\n" + BODY, 2),
        ("x.txt.gz", BODY, 1),
        ("x.csv", "subject,predicate,object\n" + BODY.replace("\t", ","), 2),
        ("x.nt", "".join(f"<{h}> <{r}> <{t.replace(' ', '%20')}> .\n" for h, r, t in ROWS), 1),
    ],
)
def test_every_text_form_gives_the_edges_and_their_lines(
    tmp_path: Path, name: str, text: str, first_line: int
) -> None:
    done = built(write(tmp_path / name, text))
    rows = [(h, r, t.replace(" ", "%20") if name == "x.nt" else t) for h, r, t in ROWS]
    assert provenance(done) == {row: (name, first_line + n) for n, row in enumerate(rows)}
    assert done.rejected.is_empty()


def test_parquet_with_types(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS, schema=["head", "relation", "tail"], orient="row").with_columns(
        pl.lit("user").alias("head_type")
    )
    frame.write_parquet(tmp_path / "x.parquet")
    done = built(tmp_path / "x.parquet")
    assert provenance(done) == {row: ("x.parquet", n + 1) for n, row in enumerate(ROWS)}
    assert done.report.types == {"entity": 1, "user": 3}


def test_many_blocks_are_one_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"e{n % 37}", f"r{n % 3}", f"e{n * 7 % 53}") for n in range(500)]
    text = "".join("\t".join(row) + "\n" for row in rows)
    whole = built(write(tmp_path / "x.tsv", text))
    monkeypatch.setattr(triple_files, "BLOCK_BYTES", 64)
    parts = built(tmp_path / "x.tsv")
    assert len(list(read_triples(tmp_path / "x.tsv"))) > 50
    assert provenance(parts) == provenance(whole)
    assert parts.report == whole.report
    assert whole.report.duplicates + whole.report.self_loops + whole.graph.edge_count == 500


def test_bad_lines_are_rejected_by_number(tmp_path: Path) -> None:
    done = built(write(tmp_path / "x.tsv", "a\tr\tb\nonly two\tfields\n\nc\t\td\ne\tr\tf\n"))
    assert done.rejected.sort("row").rows() == [
        ("x.tsv", 2, "2 fields, the table has 3"),
        ("x.tsv", 4, "no relation"),
    ]
    assert provenance(done) == {("a", "r", "b"): ("x.tsv", 1), ("e", "r", "f"): ("x.tsv", 5)}


def test_malformed_rdf_is_rejected_by_line(tmp_path: Path) -> None:
    text = '# films\n<a> <r> <b> .\n<a> <r> b .\n\n<a> <r> "open .\n<b> <r> <c> . # so\n<a> <r> <b>\n'
    done = built(write(tmp_path / "x.nt", text))
    assert done.rejected.rows() == [("x.nt", n, "malformed N-Triples line") for n in (3, 5, 7)]
    assert provenance(done) == {("a", "r", "b"): ("x.nt", 2), ("b", "r", "c"): ("x.nt", 6)}


def test_a_line_that_is_not_utf8_is_rejected_by_number(tmp_path: Path) -> None:
    (tmp_path / "x.nt").write_bytes(b"<a> <r> <b> .\n<a> <r> <\xff> .\n<b> <r> <c> .\n")
    done = built(tmp_path / "x.nt")
    assert done.rejected.rows() == [("x.nt", 2, "the line is not UTF-8")]
    assert done.graph.edge_count == 2


RDF = r"""
<http://x/Alien> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <http://x/ontology#Film> .
<http://x/Alien> <http://www.w3.org/2000/01/rdf-schema#label> "Alien, der Fremde"@de .
<http://x/Alien> <http://www.w3.org/2000/01/rdf-schema#label> "Al\u0069en \"79\""@en .
<http://x/Alien> <http://x/runtime> "117"^^<http://www.w3.org/2001/XMLSchema#integer> .
<http://x/Alien> <http://x/by> _:b0 .
_:b0 <http://x/born_in> <http://x/S\u00e8te> .
"""


@pytest.mark.parametrize("name", ["x.nt", "x.ttl"])
def test_types_labels_literals_and_blank_nodes(tmp_path: Path, name: str) -> None:
    if name == "x.ttl":
        pytest.importorskip("rdflib")
    done = built(write(tmp_path / name, RDF))
    graph = done.graph
    number = graph.entities.number("http://x/Alien")
    assert graph.label(number) == 'Alien "79"'
    assert graph.type_of(number) == "Film"
    blank = [e for e in graph.entities.to_list() if e.startswith("_:")]
    assert len(blank) == 1
    assert blank[0].startswith(f"_:{name}:")
    assert graph.type_of(graph.entities.number(blank[0])) == "blank"
    assert "http://x/Sète" in graph.entities
    assert done.report.rejected == {name: {"a literal is a value, no entity": 1}}
    assert graph.edge_count == 3


LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"


@pytest.mark.parametrize("order", ["de en", "en de", "de plain", "de en-GB fr"])
def test_the_language_decides_which_label_is_read_not_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """In one file of many blocks, and in one file for each language."""
    lines = [
        f'<a> {LABEL} "in {tag}"' + (f"@{tag}" if tag != "plain" else "") + " .\n" for tag in order.split()
    ]
    wanted = next(f"in {tag}" for tag in order.split() if tag.startswith(("en", "plain")))
    edge = "<a> <r> <b> .\n"
    files = [write(tmp_path / f"{n}.nt", line + edge) for n, line in enumerate(lines)]
    apart = build([facts for file in files for facts in read_triples(file)]).graph
    assert apart.label(apart.entities.number("a")) == wanted
    assert apart.label(apart.entities.number("b")) == "b"
    monkeypatch.setattr("slipstream.graph.triple_files.BLOCK_BYTES", 64)
    whole = build(read_triples(write(tmp_path / "all.nt", edge.join(lines) + edge))).graph
    assert whole.label(whole.entities.number("a")) == wanted


def test_a_label_in_a_foreign_language_alone_is_better_than_none(tmp_path: Path) -> None:
    graph = built(write(tmp_path / "x.nt", f'<a> <r> <b> .\n<a> {LABEL} "异形"@zh .\n')).graph
    assert graph.label(graph.entities.number("a")) == "异形"


def test_blank_nodes_of_two_files_are_not_the_same(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.nt", "_:b0 <r> <c> .\n") for n in "xy"]
    graph = build([facts for file in files for facts in read_triples(file)]).graph
    assert graph.edge_count == 2


def test_malformed_turtle_names_its_line(tmp_path: Path) -> None:
    pytest.importorskip("rdflib")
    path = write(tmp_path / "x.ttl", "@prefix x: <http://x/> .\nx:a x:r x:b .\nx:c x:r ] .\n")
    with pytest.raises(BadInput, match=r"x\.ttl, line 3"):
        built(path)


def test_turtle_without_the_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rdflib", None)
    with pytest.raises(MissingExtra) as caught:
        built(write(tmp_path / "x.ttl", "<a> <r> <b> ."))
    assert "slipstream[rdf]" in caught.value.hint


def test_two_columns_are_no_triples(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="three columns"):
        built(write(tmp_path / "x.tsv", "a\tb\n"))

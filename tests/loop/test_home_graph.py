"""The graph of a home: corrections, people, files of triples, each with a known result."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from slipstream.artifacts import open_artifact
from slipstream.config import Home
from slipstream.dataset.snapshot import snapshot_of
from slipstream.errors import BadInput, CorruptArtifact
from slipstream.events.tables import read_table
from slipstream.graph.interchange import write_recbole
from slipstream.graph.knowledge_graph import KnowledgeGraph
from slipstream.graph.triple_files import read_triples
from slipstream.loop.exporting import export_graph
from slipstream.loop.knowledge import (
    KIND,
    add_entities,
    add_links,
    add_people_edges,
    add_triple_file,
    add_triples,
    build_graph,
    open_graph,
    read_links,
)
from slipstream.loop.tables import add_rows


def test_corrections_win_and_a_later_one_over_an_earlier_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    add_rows(
        home, "items", pl.DataFrame({"item_id": ["1", "2"], "title": ["Alien (1979)", "Solaris (1972)"]})
    )
    films = pl.DataFrame(
        {"id": ["a", "b", "c"], "title": ["Alien", "Solaris", "Other"], "year": [1979, 1972, 1990]}
    )
    add_entities(home, films, "id", "film")
    add_links(home, pl.DataFrame({"item_id": ["1"], "entity_id": ["film:b"]}))
    add_links(home, pl.DataFrame({"item_id": ["1", "2"], "entity_id": ["film:a", "film:b"]}), by_hand=True)
    add_links(home, pl.DataFrame({"item_id": ["1", "2"], "entity_id": ["film:c", None]}), by_hand=True)
    build_graph(home)
    links, unlinked = read_links(home)
    assert links.rows() == [("1", "film:c", 1.0, "manual")]
    assert unlinked.select("item_id", "reason").rows() == [("2", "forbidden by hand")]


def test_friends_are_edges_between_people_by_id(tmp_path: Path) -> None:
    home = Home(tmp_path)
    add_rows(home, "users", pl.DataFrame({"user_id": ["1", "2", "3"], "job": ["cook", "cook", "poet"]}))
    add_rows(home, "items", pl.DataFrame({"item_id": ["1", "2"], "title": ["user 3", "b"]}))
    friends = pl.DataFrame({"user_id": ["1", "2", "1"], "friend_id": ["2", "1", "3"]})
    assert add_people_edges(home, friends, "friend") == 3
    add_triples(home, pl.DataFrame({"head": ["x:b"], "relation": ["by"], "tail": ["x:c"]}))
    report = build_graph(home)
    assert report is not None
    assert report.relations["friend"] == 3
    events = pl.DataFrame({"user_id": ["1", "2", "3"], "item_id": ["1", "2", "1"]})
    snapshot = snapshot_of(events, ordered=False)
    linked = open_graph(home, snapshot)
    assert linked is not None
    assert linked.user_entity is not None
    assert (linked.user_entity >= 0).all()
    people = range(linked.item_count, linked.item_count + linked.user_count)
    friend = linked.graph.relations.number("friend")
    of_friends = linked.edges.relation == friend
    one, two, three = people
    pairs = zip(linked.edges.head[of_friends].tolist(), linked.edges.tail[of_friends].tolist(), strict=True)
    assert set(pairs) == {(one, two), (two, one), (one, three)}


def test_a_file_of_triples_is_kept_with_its_lines(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    add_rows(home, "items", pl.DataFrame({"item_id": ["1", "7"], "title": ["Alien", "Solaris"]}))
    file = tmp_path / "facts.nt"
    file.write_text("<x:alien> <by> <x:scott> .\nnonsense\n<7> <by> <x:scott> .\n")
    added = add_triple_file(home, file)
    assert (added.triples, dict(added.rejected)) == (2, {"malformed N-Triples line": 1})
    assert added.first == "line 2: malformed N-Triples line"
    add_triple_file(home, file)
    add_links(home, pl.DataFrame({"item_id": ["1"], "entity_id": ["x:alien"]}))
    add_links(home, pl.DataFrame({"item_id": ["7"], "entity_id": [None]}), by_hand=True)
    report = build_graph(home)
    assert report is not None
    assert report.construction["rejected"] == {"facts.nt": {"malformed N-Triples line": 1}}
    assert report.construction["duplicates"] == 0
    graph = KnowledgeGraph.read(open_artifact(home.graph, KIND).part("graph"))
    rows = {row: graph.provenance(n) for n, row in enumerate(graph.triples().iter_rows())}
    # item 7 may not be linked, so the entity of that name is another thing
    assert rows == {
        ("1", "by", "x:scott"): ("facts.nt", 1),
        ("entity:7", "by", "x:scott"): ("facts.nt", 3),
    }
    (tmp_path / "none.nt").write_text("nonsense\n")
    with pytest.raises(BadInput, match=r"no line of none\.nt is a triple"):
        add_triple_file(home, tmp_path / "none.nt")


def test_a_changed_file_of_triples_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tr\tb\n")
    home = Home(tmp_path / "home")
    add_triple_file(home, tmp_path / "x.tsv")
    (kept,) = home.triples.iterdir()
    kept.write_text("a\tr\tc\n")
    with pytest.raises(CorruptArtifact, match=kept.name):
        build_graph(home)


def test_recbole_files_go_out_and_come_in_again(tmp_path: Path) -> None:
    edges = pl.DataFrame(
        {
            "head": ["1", 'say "hi"', "é, è"],
            "relation": ["by", "is_by_of", "r"],
            "tail": ["x y", "2", "#z"],
        }
    )
    links = pl.DataFrame({"item_id": ["1", "2"], "entity_id": ["1", "2"]})
    write_recbole(tmp_path / "out", "films", edges, links)
    first, *_ = (tmp_path / "out" / "films.kg").read_text().splitlines()
    assert first == "head_id:token\trelation_id:token\ttail_id:token"
    (facts,) = read_triples(tmp_path / "out" / "films.kg")
    assert facts.frame.select("head", "relation", "tail").equals(edges)
    assert read_table(tmp_path / "out" / "films.link").equals(links)
    home = Home(tmp_path / "home")
    add_rows(home, "items", pl.DataFrame({"item_id": ["1", "2"], "side": ["a", "b"]}))
    build_graph(home)
    events = pl.DataFrame({"user_id": ["1"], "item_id": ["1"]})
    snapshot_of(events, ordered=False).write(home.snapshot)
    exported = export_graph(home, tmp_path / "again", recbole=True)
    (facts,) = read_triples(tmp_path / "again" / "again.kg")
    assert exported.edges == facts.frame.height

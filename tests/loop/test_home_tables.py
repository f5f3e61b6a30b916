"""The home's tables and its lock."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from slipstream.config import Home
from slipstream.errors import BadInput, Busy, CorruptArtifact, UsageError
from slipstream.loop.home_lock import writing_home
from slipstream.loop.knowledge import add_entities, add_triples, build_graph
from slipstream.loop.tables import add_file, add_rows, kept_files, read_table_of
from slipstream.recommend.live_release import current_release
from slipstream.recommend.newcomers import AddedItems


def test_a_later_row_replaces_an_earlier_one_and_columns_add_up(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = add_rows(home, "items", pl.DataFrame({"sku": ["1", "2", None], "title": ["a", "b", "lost"]}))
    assert (first.id_column, first.new, first.replaced, first.without_id) == ("sku", 2, 0, 1)
    second = add_rows(home, "items", pl.DataFrame({"item_id": [2, 3], "price": [2.5, 3.5]}))
    assert (second.new, second.replaced) == (1, 1)
    table = read_table_of(home, "items")
    assert table is not None
    assert table.sort("item_id").rows() == [("1", "a", None), ("2", None, 2.5), ("3", None, 3.5)]


def test_a_table_without_an_id_is_refused_with_its_columns(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        add_rows(Home(tmp_path), "items", pl.DataFrame({"x": [1]}))
    assert "x" in caught.value.hint
    with pytest.raises(BadInput, match="no column 'y'"):
        add_rows(Home(tmp_path), "items", pl.DataFrame({"x": [1]}), "y")
    with pytest.raises(BadInput, match="no row has an id"):
        add_rows(Home(tmp_path), "items", pl.DataFrame({"item_id": [None, ""]}))


def test_every_row_of_a_table_is_accounted_for(tmp_path: Path) -> None:
    rows = pl.DataFrame({"item_id": ["1", "1", "2", None, "1"], "title": list("abcde")})
    report = add_rows(Home(tmp_path), "items", rows)
    assert (report.rows, report.new, report.without_id, report.repeated) == (5, 2, 1, 2)
    assert "2 of an id that comes again" in report.lines()[0]


@pytest.mark.parametrize("kind", ["../../x", "a.b", "a b", "", "x" * 65])
def test_a_kind_that_is_no_word_writes_nothing(tmp_path: Path, kind: str) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(UsageError, match="a kind is a word"):
        add_entities(home, pl.DataFrame({"id": ["1"], "title": ["a"]}), "id", kind)
    assert not list(tmp_path.rglob("*.parquet"))


def test_the_same_file_is_kept_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    frame = pl.DataFrame({"head": ["a"], "relation": ["r"], "tail": ["b"]})
    add_file(home, frame, "triples")
    add_file(home, frame, "triples")
    add_file(home, frame.with_columns(tail=pl.lit("c")), "triples")
    assert len(kept_files(home, "triples")) == 2


def test_one_writer_at_a_time_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    program = (
        "import sys, pathlib, time\n"
        "from slipstream.config import Home\n"
        "from slipstream.loop.home_lock import writing_home\n"
        "with writing_home(Home(pathlib.Path(sys.argv[1])), 'training'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(Busy, match=r"training, process \d+"), writing_home(home, "prepare"):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with writing_home(home, "prepare"), pytest.raises(Busy, match="prepare"), writing_home(home, "again"):
        pass
    with writing_home(home, "again"):
        pass


def test_items_that_a_server_took_in_are_part_of_the_catalogue(tmp_path: Path) -> None:
    home = Home(tmp_path)
    add_rows(
        home, "items", pl.DataFrame({"item_id": ["1"], "title": ["a"], "genre": [["x"]], "price": [1.5]})
    )
    rows = [
        {"item_id": "2", "title": "b", "genre": "y", "price": "not a price"},
        {"item_id": "1", "title": "new a", "genre": ["x", "z"], "price": 2, "stock": True},
        {"item_id": "2", "title": "b again", "genre": ["y"]},
    ]
    AddedItems(home.catalogue).append(rows)
    table = read_table_of(home, "items")
    assert table is not None
    assert table.select("item_id", "title", "genre", "price").sort("item_id").rows() == [
        ("1", "new a", ["x", "z"], 2.0),
        ("2", "b again", ["y"], None),
    ]


def test_items_of_a_server_alone_are_a_catalogue(tmp_path: Path) -> None:
    AddedItems(Home(tmp_path).catalogue).append([{"item_id": "1", "tags": ["a"]}, {"item_id": "2"}])
    table = read_table_of(Home(tmp_path), "items")
    assert table is not None
    assert table.rows() == [("1", ["a"]), ("2", None)]


def test_a_later_catalogue_wins_over_an_earlier_addition(tmp_path: Path) -> None:
    """Rows that a server took in are laid over once, and a row that names few columns keeps the others."""
    home = Home(tmp_path)
    add_rows(home, "items", pl.DataFrame({"item_id": ["1", "2"], "title": ["a", "b"], "price": [1.0, 2.0]}))
    log = AddedItems(home.catalogue)
    log.append([{"item_id": "1", "title": "A"}, {"item_id": "3", "price": 3}])
    log.append([{"item_id": "1", "price": None}])

    def rows() -> list[tuple[object, ...]]:
        table = read_table_of(home, "items")
        assert table is not None
        return table.sort("item_id").rows()

    assert rows() == [("1", "A", None), ("2", "b", 2.0), ("3", None, 3.0)]
    add_rows(home, "items", pl.DataFrame({"item_id": ["1"], "title": ["later"], "price": [9.0]}))
    assert rows() == [("1", "later", 9.0), ("2", "b", 2.0), ("3", None, 3.0)]
    log.append([{"item_id": "1", "title": "latest"}])
    assert rows()[0] == ("1", "latest", 9.0)


def test_a_damaged_table_is_refused_by_name(tmp_path: Path) -> None:
    home = Home(tmp_path)
    add_rows(home, "items", pl.DataFrame({"item_id": ["1"], "title": ["a"]}))
    path = home.catalogue / "items.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptArtifact, match=r"items\.parquet"):
        read_table_of(home, "items")


def test_lists_and_texts_of_one_column_meet(tmp_path: Path) -> None:
    """A server takes lists, a CSV has texts."""
    home = Home(tmp_path)
    AddedItems(home.catalogue).append([{"item_id": "new", "genre": ["a", "c"]}])
    texts = ["a|b", "b|c", "a|c", "a|b"]
    add_rows(home, "items", pl.DataFrame({"item_id": list("1234"), "genre": texts}))
    table = read_table_of(home, "items")
    assert table is not None
    assert dict(table.rows()) == {"new": ["a", "c"], **{str(n): t.split("|") for n, t in enumerate(texts, 1)}}
    AddedItems(home.catalogue).append([{"item_id": "1", "genre": "b"}])
    table = read_table_of(home, "items")
    assert table is not None
    assert dict(table.rows())["1"] == ["b"]


def test_damaged_triples_are_refused_by_name(tmp_path: Path) -> None:
    home = Home(tmp_path)
    path = add_file(home, pl.DataFrame({"head": ["a"], "relation": ["r"], "tail": ["b"]}), "triples")
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(CorruptArtifact, match=path.name):
        build_graph(home)


@pytest.mark.parametrize("content", [b"", b"\xb5\xff", b"../x", b"a b"])
def test_a_pointer_that_names_no_release_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "CURRENT").write_bytes(content)
    with pytest.raises(CorruptArtifact, match="CURRENT"):
        current_release(Home(tmp_path))


def test_ids_of_all_tables_are_those_of_the_events(tmp_path: Path) -> None:
    """As they are, blanks included; and pandas makes whole ids floats where one is missing."""
    home = Home(tmp_path)
    add_rows(home, "items", pl.DataFrame({"item_id": [7.0, None, 8.5], "title": ["a", "b", "c"]}))
    add_rows(home, "items", pl.DataFrame({"item_id": [" x"], "title": ["d"]}))
    table = read_table_of(home, "items")
    assert table is not None
    assert table["item_id"].to_list() == ["7", "8.5", " x"]
    add_triples(home, pl.DataFrame({"a": [7.0], "b": ["r"], "c": [1.0], "tail": ["not this"]}))
    kept = pl.read_parquet(kept_files(home, "triples")[0])
    assert kept.rows() == [("7", "r", "1")]


def test_an_id_column_beside_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'item_id' beside 'sku'"):
        add_rows(Home(tmp_path), "items", pl.DataFrame({"item_id": ["1"], "sku": ["2"]}), "sku")
    with pytest.raises(BadInput, match="not an id"):
        add_rows(Home(tmp_path), "items", pl.DataFrame({"item_id": [[1]], "title": ["a"]}))

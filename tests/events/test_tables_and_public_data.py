"""Whole tables, and public data: what is unpacked, what is refused, and what the real thing holds."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest

from slipstream.errors import BadInput, CorruptArtifact, NotThere, Unavailable, UnknownName
from slipstream.events.event import EventBatch
from slipstream.events.importers import DelimitedForm, ingest, read_table
from slipstream.events.public_data import (
    FILMS,
    PACKAGES,
    Member,
    Package,
    bring,
    check,
    fetch,
    read_films,
    unpack,
)
from slipstream.events.sqlite import SqliteEventStore


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_text_tables_stay_text_and_empty_cells_are_null(tmp_path: Path) -> None:
    file = write(tmp_path / "items.csv", 'item_id,title,2001\n007,"Bond, James",1\n8,,\n')
    frame = read_table(file)
    assert frame.to_dict(as_series=False) == {
        "item_id": ["007", "8"],
        "title": ["Bond, James", None],
        "2001": ["1", None],
    }
    assert read_table(write(tmp_path / "ids.txt", "item_id\na\nb\n")).to_dict(as_series=False) == {
        "item_id": ["a", "b"]
    }
    triples = read_table(write(tmp_path / "kg.tsv", "a\tr\tb\n"), form=DelimitedForm(has_header=False))
    assert triples.rows() == [("a", "r", "b")]
    assert read_table(write(tmp_path / "none.csv", "a,b\n")).schema == {"a": pl.String, "b": pl.String}


def test_atomic_files_have_types(tmp_path: Path) -> None:
    header = "item_id:token\tprice:float\tgenres:token_seq\tvector:float_seq"
    text = f"{header}\n1\t2.5\tSci-Fi  Drama\t1 2.5\n2\t\t\t\n"
    file = write(tmp_path / "a.item", text)
    assert read_table(file).rows() == [("1", 2.5, ["Sci-Fi", "Drama"], [1.0, 2.5]), ("2", None, None, None)]
    assert read_table(file, lists=False).rows()[0] == ("1", 2.5, "Sci-Fi  Drama", "1 2.5")


def test_typed_tables_keep_their_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"item_id": ["a", "b"], "price": [1.5, None], "tags": [["x"], []]})
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ndjson(tmp_path / "a.jsonl")
    assert read_table(tmp_path / "a.parquet").equals(frame)
    assert read_table(tmp_path / "a.jsonl").equals(frame)
    with pytest.raises(BadInput, match=r"b\.jsonl is not a table of JSON lines"):
        read_table(write(tmp_path / "b.jsonl", '{"a": 1}\n{"a"\n'))
    with pytest.raises(NotThere, match="there is no file"):
        read_table(tmp_path / "absent.csv")


def test_a_bad_line_of_a_table_is_named_or_set_aside(tmp_path: Path) -> None:
    file = write(tmp_path / "items.csv", "item_id,title\na,A\nb\nc,C\n")
    with pytest.raises(BadInput, match=r"items\.csv, line 3: 1 fields, the table has 2") as fault:
        read_table(file)
    assert fault.value.hint == "the line: b"
    assert read_table(file, rejects=tmp_path / "rejects").rows() == [("a", "A"), ("c", "C")]
    (rejects,) = (tmp_path / "rejects").iterdir()
    assert '"line": 3, "code": "field-count"' in rejects.read_text()


# Public data


def member(place: str, content: bytes) -> Member:
    return Member(place, len(content), hashlib.sha256(content).hexdigest())


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_only_the_named_files_are_unpacked_and_each_is_checked(tmp_path: Path) -> None:
    files = {"pkg/data/a.inter": b"a" * 1000, "pkg/data/a.kg": b"k", "../evil": b"e"}
    archive = wheel(tmp_path / "x.whl", files)
    good = member("pkg/data/a.inter", files["pkg/data/a.inter"])
    unpack(archive, [good], tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.inter"]
    check(tmp_path / "out" / "a.inter", good)
    other = Member(good.place, good.size, hashlib.sha256(b"b" * 1000).hexdigest())
    with pytest.raises(
        CorruptArtifact, match=r"pkg/data/a\.inter is not the file that was meant: its SHA-256"
    ):
        unpack(archive, [other], tmp_path / "out2")
    with pytest.raises(
        CorruptArtifact, match=r"pkg/data/a\.inter has 1,000 bytes, the one that was meant has 7"
    ):
        unpack(archive, [Member(good.place, 7, good.sha256)], tmp_path / "out2")
    with pytest.raises(CorruptArtifact, match=r"x\.whl is not the package that was meant"):
        unpack(archive, [member("pkg/absent", b"")], tmp_path / "out2")
    with pytest.raises(CorruptArtifact, match=r"y\.whl is not the package"):
        unpack(Path(write(tmp_path / "y.whl", "no zip")), [good], tmp_path / "out2")
    assert list((tmp_path / "out2").iterdir()) == []


def test_a_wheel_put_there_by_hand_is_used_and_the_cache_is_checked_again(tmp_path: Path) -> None:
    package = Package("small", "1.0", (member("small/a.inter", b"rows"), member("small/a.item", b"items")))
    archive = wheel(tmp_path / package.wheel, {"small/a.inter": b"rows", "small/a.item": b"items"})
    files, fresh = bring(package, tmp_path)
    assert fresh
    assert files["a.item"].read_bytes() == b"items"
    archive.unlink()
    assert bring(package, tmp_path) == (files, False)
    files["a.inter"].write_bytes(b"rowz")
    with pytest.raises(CorruptArtifact, match=r"a\.inter is not the file that was meant") as fault:
        bring(package, tmp_path)
    assert fault.value.hint == "delete it and fetch again"


def test_a_package_that_cannot_be_had_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    package = Package("slipstream-no-such-package", "1.0", (member("x/a", b""),))
    with pytest.raises(
        Unavailable, match=r"slipstream-no-such-package 1\.0 could not be downloaded"
    ) as fault:
        bring(package, tmp_path / "cache")
    assert "put slipstream-no-such-package-1.0-py3-none-any.whl into" in fault.value.hint
    with pytest.raises(UnknownName, match="no public data set named 'ml-10m'"):
        fetch("ml-10m", folder=tmp_path)


def test_only_the_free_film_catalogue_is_pinned() -> None:
    assert FILMS.members[0].sha256.startswith("1d9c6a02")
    for packages in PACKAGES.values():
        for package in packages:
            assert not [m.name for m in package.members if m.name.endswith((".kg", ".link"))]


def test_the_film_catalogue_is_read_into_lists_of_names(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "movies ?#.db")
    db.execute("CREATE TABLE omdb(ID, imdbID, Title, Year, Director, Writer, Cast, Genre, Country, Language)")
    db.execute("CREATE TABLE tomatoes(ID, Production)")
    db.execute(
        "INSERT INTO omdb VALUES(7, 'tt1', 'A', 1999, 'X, Y ,,X', '', NULL, 'Drama', 'Chad', 'French')"
    )
    db.execute("INSERT INTO omdb VALUES(3, 'tt2', 'B', NULL, '', '', '', '', '', '')")
    db.execute("INSERT INTO tomatoes VALUES(7, 'Gaumont, TF1')")
    db.commit()
    db.close()
    films = read_films(tmp_path / "movies ?#.db")
    assert films.rows() == [
        ("3", "tt2", "B", None, [], [], [], [], [], [], []),
        ("7", "tt1", "A", 1999, ["X", "Y"], [], [], ["Drama"], ["Chad"], ["French"], ["Gaumont", "TF1"]),
    ]
    with pytest.raises(CorruptArtifact, match="is not the film catalogue"):
        read_films(write(tmp_path / "text.db", "no database" * 1000))


def index_is_there(folder: Path) -> bool:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder)]
    return subprocess.run([*command, "recbole==1.2.1"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "events", "users", "rated"), [("ml-100k", 100_000, 943, 1682), ("ml-1m", 1_000_209, 6040, 3706)]
)
def test_the_real_sets_are_what_they_are_said_to_be(
    tmp_path: Path, name: str, events: int, users: int, rated: int
) -> None:
    if not index_is_there(tmp_path):
        pytest.skip("pip reaches no package index")
    data = fetch(name, folder=tmp_path / "cache")
    assert data.download_s > 0
    assert fetch(name, folder=tmp_path / "cache").download_s == 0
    with SqliteEventStore(tmp_path / "e.sqlite") as store:
        report = ingest(data.events_file, store, rejects=tmp_path / "rejects")
        assert (report.stored, dict(report.rejected)) == (events, {})
        stored = pl.concat(store.scan())
    assert (stored["user_id"].n_unique(), stored["item_id"].n_unique()) == (users, rated)
    assert set(stored["item_id"]) <= set(data.items["item_id"])
    assert set(stored["user_id"]) == set(data.users["user_id"])
    assert data.film_catalogue.height == 17_472
    assert data.items["release_year"].null_count() <= 1
    assert data.items["genres"].list.len().min() == 1
    assert "GroupLens" in data.terms
    shared = (
        Path(os.environ.get("SLIPSTREAM_SHARED", Path(__file__).parents[2] / "../shared")) / "data" / name
    )
    if name == "ml-100k" and shared.exists():
        table = pl.read_parquet(shared / "interactions.parquet").select(
            "user_id", "item_id", value="rating", time_us=pl.col("timestamp") * 1_000_000
        )
        assert EventBatch.of(table).frame["event_id"].sort().equals(stored["event_id"].sort())

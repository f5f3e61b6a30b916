"""Files that are no tables: each is refused by name, with a way out, and never by a crash."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from slipstream.errors import BadInput
from slipstream.events.importers import ingest, ingest_frame, read_table
from slipstream.events.sqlite import SqliteEventStore

ROWS = [{"user": "a", "item": "b", "time": 1_700_000_000}]
DEEP = "[" * 90_000
HOSTILE = {
    "noise.csv": (bytes(range(1, 256)) * 50, "noise.csv"),
    "noise.tsv": (b"\xff\x00\x01" * 500, "zero bytes"),
    "zeros.csv": (bytes(500), "zero bytes"),
    "old-mac.csv": (b"user,item\ra,b\rc,d\r", "carriage return"),
    "array.json": (json.dumps(ROWS).encode(), "one JSON array"),
    "deep.jsonl": (DEEP.encode(), "JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_table_is_bad_input(name: str, tmp_path: Path) -> None:
    content, said = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with SqliteEventStore(tmp_path / "events.sqlite") as store:
        with pytest.raises(BadInput, match=said):
            ingest(tmp_path / name, store, rejects=tmp_path / "rejects")
        assert store.event_count() == 0
    with pytest.raises(BadInput, match=said):
        read_table(tmp_path / name)


def test_a_deep_line_costs_only_itself(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join([json.dumps(ROWS[0]), DEEP, '{"user": ' + DEEP, json.dumps(ROWS[0])]))
    with SqliteEventStore(tmp_path / "events.sqlite") as store:
        report = ingest(file, store, rejects=tmp_path / "rejects")
    assert (report.rows, report.stored, dict(report.rejected)) == (4, 2, {"bad-json": 2})


def test_a_message_about_a_table_is_short(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps([{"item_id": "x" * 50}] * 200))
    with pytest.raises(BadInput) as caught:
        read_table(file)
    assert len(caught.value.message) < 300


def test_days_of_a_spreadsheet_are_pointed_out(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["a"], "item": ["b"], "time": [45_000.5]})
    with SqliteEventStore(tmp_path / "events.sqlite") as store:
        told = ingest_frame(frame, store, rejects=tmp_path / "rejects").lines()
    assert any("1970" in line and "spreadsheet" in line for line in told)

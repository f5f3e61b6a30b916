"""What the operating system refuses is told in one line and exit code 4, never by a traceback."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.cli import main

EVENTS = "user,item\n" + "".join(f"u{n},i{n % 7}\n" for n in range(20_000))


def test_a_home_that_cannot_be_made_is_unavailable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "events.csv"
    file.write_text("user,item\na,b\n")
    assert main(["ingest", str(file), "--home", str(file)]) == 4
    said = capsys.readouterr().err
    assert "events.csv" in said
    assert "Traceback" not in said


def test_a_full_disk_is_storage_full_and_the_rerun_is_whole(tmp_path: Path) -> None:
    """A bound on the size of files stands for the disk."""
    (tmp_path / "events.csv").write_text(EVENTS)
    home = tmp_path / "home"
    command = [sys.executable, "-m", "slipstream"]
    ingest = [*command, "ingest", str(tmp_path / "events.csv"), "--home", str(home)]
    prepare = [*command, "prepare", "--home", str(home)]

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    def run(arguments: list[str], *, full: bool) -> subprocess.CompletedProcess[str]:
        before = bounded if full else None
        return subprocess.run(arguments, capture_output=True, text=True, check=False, preexec_fn=before)

    export = [*command, "events", "export", str(tmp_path / "out.parquet"), "--home", str(home)]
    for arguments, said in (
        (ingest, "events.sqlite"),
        (export, "storage-full"),
        (prepare, "storage-full"),
    ):
        refused = run(arguments, full=True)
        assert refused.returncode == 4, refused.stderr
        assert said in refused.stderr
        done = run(arguments, full=False)
        assert done.returncode == 0, done.stderr
    assert "20,000 events in the snapshot" in done.stdout


def test_a_pipe_gets_lines_that_are_not_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far = tmp_path / ("x" * 120) / ("y" * 120)
    assert main(["ingest", str(far)]) == 3
    assert str(far) in capsys.readouterr().err
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [line.rstrip() for line in lines]

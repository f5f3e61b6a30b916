"""`slipstream cycle` and what `slipstream releases` tells of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipstream.cli import main
from slipstream.errors import ConfigError
from slipstream.loop import journal
from slipstream.loop.policy import read_policy
from slipstream.loop.workspace import Workspace


def test_the_command_line(space: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, where = tmp_path / "policy.toml", ["--home", str(space.home.root)]
    file.write_text('model = "item_neighbours"\n[data]\nevents = 100\nusers = 30\n[watch]\nminutes = 0\n')
    assert main(["cycle", "--policy", str(file), *where]) == 0
    told = capsys.readouterr().out
    assert "passed: NDCG@10" in told
    assert "promoted: " in told
    file.write_text('model = "popularity"\n[data]\nevents = 100\nusers = 30\n')
    assert main(["cycle", "--policy", str(file), "--json", *where]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["outcome"] == "refused"
    assert main(["releases", *where]) == 0
    told = capsys.readouterr().out
    assert "refused" in told
    assert "against" in told
    assert main(["releases", "--json", *where]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["cycles"][0] == record  # who, on what, with which policy, which numbers, why
    assert [cycle["outcome"] for cycle in listed["cycles"]] == ["refused", "promoted"]
    assert {"first", record["name"]} <= {release["name"] for release in listed["releases"]}
    file.write_text("[ndcg]\nabov = 1\n")
    assert main(["cycle", "--policy", str(file), *where]) == 2
    assert main(["cycle", "--every", "1 week", *where]) == 2
    with pytest.raises(ConfigError, match=r"ndcg\.abov"):
        read_policy(file)
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not TOML"):
        read_policy(file)


def test_every_so_often_a_turn_until_it_is_stopped(space: Workspace) -> None:
    """Each turn is refused here, for want of events; Ctrl-C ends it."""
    command = [sys.executable, "-m", "slipstream", "cycle", "--every", "1s", "--home", str(space.home.root)]
    file = space.home.root / "policy.toml"
    file.write_text('model = "item_neighbours"\n[data]\nevents = 10_000\n')
    turning = subprocess.Popen(
        [*command, "--policy", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 60
    while len(found := journal.records(space.home)) < 2 or not found[-1].outcome:
        assert time.monotonic() < until
        assert turning.poll() is None
        time.sleep(0.05)
    turning.send_signal(signal.SIGINT)
    said = turning.communicate(timeout=60)[1]
    assert turning.returncode == 130, said
    assert {record.outcome for record in found} == {"refused"}

"""kill -9 in the middle of a real `prepare` process: the old snapshot or the new one, never half of one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from slipstream.dataset.cleaning import CleaningRules
from slipstream.dataset.preparation import prepare
from slipstream.dataset.snapshot import Snapshot

EVENTS = 200_000

PROGRAM = """
import sys
from pathlib import Path
from slipstream.dataset.cleaning import CleaningRules
from slipstream.dataset.preparation import prepare

def tell(done, total, note):
    print(note, flush=True)

prepare(Path(sys.argv[1]), CleaningRules(), Path(sys.argv[2]), tell)
print("finished", flush=True)
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("log") / "log.parquet"
    pl.DataFrame(
        {
            "user_id": random.integers(0, 20_000, EVENTS),
            "item_id": random.integers(0, 5_000, EVENTS),
            "time_us": random.integers(0, 10**12, EVENTS),
        }
    ).with_row_index("event").cast({"user_id": pl.String}).write_parquet(file)
    return file


def start(log: Path, snapshot: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(log), str(snapshot)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_when(process: subprocess.Popen[str], note: str, after_s: float) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == note:
            break
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait()


def finish(log: Path, snapshot: Path) -> None:
    process = start(log, snapshot)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert output.splitlines()[-1] == "finished"


@pytest.mark.parametrize(
    ("note", "after_s"),
    [("rows read", 0), ("sorting", 0), ("writing", 0.002), ("writing", 0.01)],
)
def test_a_killed_preparation_leaves_the_old_snapshot_or_the_new_and_a_rerun_finishes(
    tmp_path: Path, log: Path, note: str, after_s: float
) -> None:
    place = tmp_path / "snapshot"
    old = pl.DataFrame({"user_id": ["a"], "item_id": ["1"], "time_us": [1]})
    prepare(old, CleaningRules(), place)
    kill_when(start(log, place), note, after_s)
    assert Snapshot.open(place).event_count in (1, EVENTS)
    finish(log, place)
    assert Snapshot.open(place).event_count == EVENTS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["snapshot"]  # nothing half-written is left behind


def test_killed_before_the_first_snapshot_there_is_none_and_a_rerun_makes_it(
    tmp_path: Path, log: Path
) -> None:
    place = tmp_path / "snapshot"
    kill_when(start(log, place), "sorting", 0)
    assert not place.exists()
    finish(log, place)
    assert Snapshot.open(place).event_count == EVENTS

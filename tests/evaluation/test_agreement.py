"""On real data the figures are those of the independent scorer, and the targets those of the protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
from club_world import FIGURES, judged, shared_data

from slipstream.evaluation.trial import run_trial

REAL = [
    ("ml-100k", "loo", 943, 943, "520accf3a06b90c0"),
    ("ml-100k", "temporal", 90, 2_886, "9fb6187fcff9bb14"),
]
SLOW = [
    ("ml-1m", "loo", 6_040, 6_040, "51bc9a443f9e73b1"),
    ("ml-1m", "loo-t", 6_040, 6_040, "51bc9a443f9e73b1"),
    ("ml-1m", "temporal", 1_180, 95_812, "9e6067689fb5d01a"),
    ("ml-1m-kg", "split", 6_040, 185_241, "6019f0cd14350414"),
    ("amazon-beauty", "loo", 22_363, 22_363, "35847c38c18af216"),
    ("gowalla", "split", 29_858, 217_242, ""),
    ("amazon-book", "split", 70_591, 193_920, ""),
]


@pytest.mark.parametrize(
    ("data", "board", "users", "targets", "digest"),
    [*REAL, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_real_data_agrees_to_nine_digits(
    data: str, board: str, users: int, targets: int, digest: str, tmp_path: Path
) -> None:
    folder = shared_data(data)
    trial = run_trial(folder, "popularity", board, without=["graph"])
    assert (trial.users, trial.targets, trial.targets_sha256[:16]) == (
        users,
        targets,
        digest or trial.targets_sha256[:16],
    )
    file = tmp_path / "slates.parquet"
    trial.slates.write_parquet(file)
    for k in (10, 20) if board == "temporal" else (10,):
        expected = judged(folder, board, file, k)
        for name in FIGURES:
            assert trial.metrics[f"{name}@{k}"] == pytest.approx(expected[name], abs=1e-9)
        assert expected["faults"] == {"seen": 0, "repeats": 0, "unknown": 0, "users_without_list": 0}
        assert expected["targets_sha256"] == trial.targets_sha256
    assert trial.peak_rss_bytes < 2_000_000_000

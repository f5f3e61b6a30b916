"""NDCG@10 by the time between the last event and the target, on a world where every figure is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from club_world import write_folder

from slipstream.evaluation.comparison import averaged
from slipstream.evaluation.report import report_html
from slipstream.evaluation.result import Trial
from slipstream.evaluation.slates import evaluate_slates
from slipstream.evaluation.tables import gap_table, plain_rows

PEOPLE = {  # seconds before the target, and the rank at which the list has it
    "same moment, found": (0, 1),
    "same moment, not found": (0, None),
    "just under a minute": (59, 3),
    "a minute": (60, 1),
    "just under an hour": (3_599, 1),
    "an hour": (3_600, 3),
    "a day": (86_400, None),
}
KNOWN = {"tie": (2, 0.5), "< 1 min": (1, 0.5), "< 1 h": (2, 1.0), "longer": (2, 0.25)}  # rank 3 is worth 1/2


def answered(folder: Path, board: str, *, clock: bool = True) -> Trial:
    rows, lists = [], []
    for person, (gap, rank) in PEOPLE.items():
        times = [1_000_000, 1_900_000, 2_000_000, 2_000_000 + gap]
        rows += [(person, f"{person} {n}", time, n) for n, time in enumerate(times)]
        listed = [f"a day {n}" if person != "a day" else f"an hour {n}" for n in range(3)]
        if rank is not None:
            listed[rank - 1] = f"{person} 3"
        lists += [(person, item, place) for place, item in enumerate(listed, 1)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "seq"], orient="row")
    write_folder(folder, frame if clock else frame.drop("timestamp"))
    slates = pl.DataFrame(lists, schema=["user_id", "item_id", "rank"], orient="row")
    return evaluate_slates(folder, board, slates)


@pytest.mark.parametrize("board", ["loo", "loo-t"])
def test_every_slice_has_its_users_and_its_figure(tmp_path: Path, board: str) -> None:
    trial = answered(tmp_path / "gaps", board)
    told = json.loads(json.dumps(trial.to_json(), allow_nan=False))["breakdown"]["gap"]
    assert {part["slice"]: (part["users"], part["NDCG@10"]) for part in told} == KNOWN
    assert all(low <= part["NDCG@10"] <= high for part in told for low, high in [part["interval"]])
    assert sum(users for users, _ in KNOWN.values()) == trial.users
    table = gap_table([trial])
    assert table is not None
    assert table.columns == ("model", "tie (2)", "< 1 min (1)", "< 1 h (2)", "longer (2)")
    assert [text.split("\n")[0] for text in plain_rows(table)[0][1:]] == [
        f"{value:.4f}" for _, value in KNOWN.values()
    ]
    assert "longer (2)" in report_html([trial])


def test_seeds_are_averaged_in_every_slice(tmp_path: Path) -> None:
    trial = answered(tmp_path / "gaps", "loo")
    nothing = {name: np.zeros_like(column) for name, column in trial.scores.values.items()}
    other = replace(trial, seed=1, scores=replace(trial.scores, values=nothing))
    parts = averaged([trial, other]).scores.by_gap
    assert {part.name: (part.users, part.ndcg.mean) for part in parts} == {
        name: (users, value / 2) for name, (users, value) in KNOWN.items()
    }


def test_without_a_clock_there_are_no_gaps(tmp_path: Path) -> None:
    trial = answered(tmp_path / "gaps", "loo", clock=False)
    assert trial.users == len(PEOPLE)
    assert "breakdown" not in trial.to_json()
    assert gap_table([trial]) is None

"""`slipstream trial` from a folder to figures, page and files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

USERS, ITEMS = 40, 20


def slipstream(*arguments: str | Path, code: int = 0) -> str:
    command = [sys.executable, "-m", "slipstream", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everybody walks along a ring of items, a step every 20 seconds."""
    folder = tmp_path_factory.mktemp("data") / "ring"
    folder.mkdir()
    starts = np.random.default_rng(0).integers(0, ITEMS, USERS)
    rows = [
        (f"u{user}", f"i{(start + step) % ITEMS}", 1_000_000 + 20 * step)
        for user, start in enumerate(starts)
        for step in range(8)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame.write_parquet(folder / "interactions.parquet")
    return folder


def test_a_trial_tells_figures_gaps_and_cost_and_writes_them(data: Path, tmp_path: Path) -> None:
    files = [
        "--json",
        tmp_path / "t.json",
        "--report",
        tmp_path / "t.html",
        "--slates",
        tmp_path / "s.parquet",
    ]
    quick = ["--set", "epochs=3", "--set", "half_life=0"]
    told = slipstream("trial", "bilinear", "--data", data, "--board", "loo", *files, *quick)
    assert "< 1 min (40)" in told
    assert "NDCG@10" in told
    written = json.loads((tmp_path / "t.json").read_text())
    assert written["config"]["epochs"] == 3
    assert [row["epoch"] for row in written["curve"]] == [1, 2, 3]
    assert all(row["validation_ndcg@10"] >= 0 and row["train_cpu_s"] > 0 for row in written["curve"])
    assert written["breakdown"]["gap"][0]["users"] == USERS
    page = (tmp_path / "t.html").read_text()
    assert "validation NDCG@10: " in page
    assert "CPU s</text>" in page
    assert "&lt; 1 min (40)" in page
    assert pl.read_parquet(tmp_path / "s.parquet").height == USERS * (ITEMS - 7)


def test_with_repeats_the_history_is_not_hidden(data: Path, tmp_path: Path) -> None:
    lists = {}
    for name, extra in (("hidden", []), ("shown", ["--repeat"])):
        slates, report = tmp_path / f"{name}.parquet", tmp_path / f"{name}.json"
        files = ["--slates", slates, "--json", report, *extra]
        told = slipstream("trial", "popularity", "--data", data, "--board", "loo", *files)
        assert ("may come back" in told) == bool(extra)
        assert json.loads(report.read_text())["repeat"] == bool(extra)
        lists[name] = pl.read_parquet(slates).height
    assert lists == {"hidden": USERS * (ITEMS - 7), "shown": USERS * ITEMS}


def test_tuned_settings_go_from_the_study_into_a_trial(data: Path, tmp_path: Path) -> None:
    study, best = tmp_path / "study.sqlite", tmp_path / "best.json"
    place = ["--data", data, "--board", "loo"]
    search = [
        "tune",
        "ease",
        *place,
        "--trials",
        "4",
        "--set",
        "neighbours=9",
        "--study",
        study,
        "--out",
        best,
    ]
    told = slipstream(*search)
    assert "4 tried" in told
    written = json.loads(best.read_text())["ease"]
    assert written["neighbours"] == 9
    for key, value in written.items():
        assert f"--set ease.{key}={json.dumps(value)}" in told
    assert f"--board loo --config {best}" in told
    assert "4 tried" in slipstream(*search)
    assert json.loads(best.read_text())["ease"] == written
    files = ["--config", best, "--set", "neighbours=7", "--json", tmp_path / "t.json"]
    slipstream("trial", "ease", *place, *files)
    config = json.loads((tmp_path / "t.json").read_text())["config"]
    assert {key: config[key] for key in written} == written | {"neighbours": 7}
    assert "is a setting of ease" in slipstream("trial", "ials", *place, "--config", best, code=2)

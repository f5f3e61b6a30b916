"""The results page says what the trial files say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
from club_world import interactions, write_folder

from slipstream.evaluation.trial import run_trial

ROOT = Path(__file__).parents[2]


def results(*arguments: str | Path, shared: Path, code: int = 0) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / "results.py"), *map(str, arguments)]
    environment = {**os.environ, "SLIPSTREAM_SHARED": str(shared)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """<root>/data/clubs and <root>/runs: three seeds of popularity, other models with one."""
    root = tmp_path_factory.mktemp("shared")
    folder = write_folder(root / "data" / "clubs", interactions(), catalogue=True)
    (root / "runs").mkdir()
    made = [("popularity", seed, (), {}) for seed in (0, 1, 2)]
    made += [("ease", 0, (), {}), ("ease", 0, ("items",), {}), ("ease", 0, (), {"ridge": 3})]
    made += [("fusion", 0, (), {"fusion.members": ["ease", "popularity"]})]
    for number, (model, seed, without, overrides) in enumerate(made):
        trial = run_trial(folder, model, "loo", seed=seed, without=without, overrides=overrides, threads=1)
        (root / "runs" / f"{number}.json").write_text(json.dumps(trial.to_json()))
        trial.slates.write_parquet(root / "runs" / f"{number}.parquet")
    return root / "runs"


def test_the_page_holds_means_over_seeds_and_every_kind_of_row(runs: Path) -> None:
    text = results(runs, shared=runs.parent)
    trials = [json.loads(file.read_text()) for file in sorted(runs.glob("*.json"))]
    mean = fmean(t["metrics"]["HR@10"] for t in trials[:3])
    low = fmean(t["intervals"]["HR@10"][0] for t in trials[:3])
    assert f"| popularity | 3 | {mean:.4f} [{low:.4f}, " in text
    assert "| ease ridge=3 | 1 | " in text
    assert "| ease | items | " in text  # features on and off
    assert "fusion beside its best member" in text
    gap = trials[3]["breakdown"]["gap"][-1]
    assert f"longer ({gap['users']})" in text
    assert f"{gap['NDCG@10']:.4f}" in text
    assert 'slipstream trial fusion --data clubs --board loo --set "fusion.members=[ease,popularity]"' in text
    assert trials[0]["targets_sha256"][:16] in text


def test_what_leaves_nothing_out_is_worth_nothing_beyond_doubt(runs: Path) -> None:
    """EASE reads no features: the lists beside the files give a paired interval of exactly 0."""
    text = results(runs, shared=runs.parent)
    assert "| 0.0000 [0.0000, 0.0000] |" in text
    unpaired = results(runs, shared=runs / "nowhere")
    assert "| 0.0000 |" in unpaired


def test_a_difference_is_of_the_seeds_that_both_rows_have(runs: Path, tmp_path: Path) -> None:
    """EASE with two seeds, the other far better: what items are worth is that of the first: nothing."""
    for number in (3, 4):
        (tmp_path / f"{number}.json").write_text((runs / f"{number}.json").read_text())
    other = json.loads((runs / "3.json").read_text())
    other["seed"], other["metrics"]["NDCG@10"] = 1, 0.9
    (tmp_path / "other.json").write_text(json.dumps(other))
    row = next(line for line in results(tmp_path, shared=runs).splitlines() if "| ease | items |" in line)
    assert row.endswith("| 0.0000 |")


def test_the_tables_go_between_the_marks_and_again_in_their_place(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text((ROOT / "docs" / "results.md").read_text())
    results(runs, "--write", page, shared=runs.parent)
    once = page.read_text()
    assert once.startswith("# Results")
    assert "## clubs, `loo`" in once
    results(runs, "--write", page, shared=runs.parent)
    assert page.read_text() == once


def test_the_same_trial_twice_is_refused(runs: Path, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text((runs / "0.json").read_text())
    assert "are the same trial" in results(tmp_path, shared=runs.parent, code=1)
    assert "no trial files" in results(runs / "nowhere", shared=runs.parent, code=1)

"""The table of what the graph is worth claims nothing that its intervals do not bear."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def measured(folder: Path, board: str, shuffled: tuple[float, float, float]) -> None:
    """One file as --json writes it; shuffled: full minus shuffled and its bounds."""

    def interval(mean: float, low: float, high: float) -> dict[str, float]:
        return {"mean": mean, "low": low, "high": high}

    kept: dict[str, Any] = {
        "data": "clubs", "board": board, "model": "path_reasoner", "seed": 3, "part": "test", "users": 1234,
        "ndcg": {name: interval(value, value - 0.01, value + 0.01)
                 for name, value in (("none", 0.1), ("shuffled", 0.2), ("degree", 0.25), ("full", 0.3))},
        "full minus": {"none": interval(0.2, 0.1, 0.3), "shuffled": interval(*shuffled),
                       "degree": interval(0.05, 0.01, 0.09)},
    }  # fmt: skip
    (folder / f"{board}.json").write_text(json.dumps(kept))


def test_it_helps_only_where_the_interval_beside_shuffled_says_so(tmp_path: Path) -> None:
    runs, page = tmp_path / "runs", tmp_path / "page.md"
    runs.mkdir()
    measured(runs, "cold", (0.1, 0.05, 0.15))
    measured(runs, "loo", (0.01, -0.01, 0.03))
    measured(runs, "split", (-0.02, -0.03, -0.01))
    begin, end = "<!-- begin: made by benchmarks/graph_ablation.py -->", "<!-- end of the graph -->"
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    script = str(ROOT / "benchmarks" / "graph_ablation.py")
    command = [sys.executable, script, "--tables", str(runs), "--write", str(page)]
    subprocess.run(command, check=True)
    text = page.read_text()
    rows = {line.split("|")[1].strip(): line.rsplit("|", 2)[1].strip() for line in text.splitlines()[4:]
            if line.startswith("| clubs")}  # fmt: skip
    assert rows == {
        "clubs, cold (test, 1,234 users)": "yes",
        "clubs, loo (test, 1,234 users)": "not shown",
        "clubs, split (test, 1,234 users)": "no",
    }
    assert "0.1000 [0.0500, 0.1500]" in text
    assert "--data clubs --board split --model path_reasoner --seed 3 --test" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "\nold\n" not in text

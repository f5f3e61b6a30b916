"""Every example runs as a person would run it: as a script, in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
EXPECTED = {
    "shop": ["NDCG@10 on purchases", "because"],
    "groceries": ["next basket"],
    "films": ["because"],
}


@pytest.mark.parametrize("example", EXAMPLES, ids=[e.stem for e in EXAMPLES])
def test_the_example_runs_and_answers(example: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for text in EXPECTED[example.stem]:
        assert text in done.stdout.lower() or text in done.stdout, done.stdout[-2000:]


def test_groceries_repeat_what_was_bought() -> None:
    example = next(e for e in EXAMPLES if e.stem == "groceries")
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, timeout=120, check=True
    )
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    bought = {thing.strip() for thing in lines["bought lately"].split(",")}
    nexts = [thing.strip() for thing in lines["next basket"].split(",")]
    assert len(bought & set(nexts)) >= 3


@pytest.mark.slow
def test_the_simulated_shop_learns_over_http_and_no_planted_model_stays() -> None:
    program = Path(__file__).parents[2] / "examples" / "simulated_shop" / "simulate.py"
    command = [sys.executable, str(program), "--days", "12", "--people", "400"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cycle with item_neighbours: promoted" in done.stdout
    assert "the planted model was refused" in done.stdout  # by the gate
    assert "what the feast taught was rolled back" in done.stdout  # by the watch
    rise = re.search(
        r"loop's people clicked ([0-9.]+)% in the first fifth of the days, ([0-9.]+)%", done.stdout
    )
    assert rise is not None, done.stdout
    assert float(rise[2]) > 1.5 * float(rise[1])
    better = re.search(r"2-live − shop/1-popular: CTR \+[0-9.]+ \[\+", done.stdout)
    assert better is not None, done.stdout  # the interval of the difference lies above 0

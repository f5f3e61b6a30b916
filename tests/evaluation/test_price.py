"""`slipstream price` on the world of clubs: every key, figures that agree with each other, and refusals."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from club_world import interactions, write_folder

from slipstream.config import thread_count
from slipstream.errors import BadInput, UsageError
from slipstream.evaluation.ladder import overlap
from slipstream.evaluation.levers import early_stop, read_training
from slipstream.evaluation.price import price

KEYS = {
    "name", "model_bytes", "release_bytes", "bytes_per_item", "resident_bytes", "step_us", "scan_us",
    "answer_p50_us", "answer_p99_us", "users_per_s", "ndcg", "ndcg_delta", "ndcg_delta_interval", "exact",
    "overlap@10", "train_cpu_s", "pareto", "open_ms", "step_p99_us", "scan_p99_us", "hr",
}  # fmt: skip
DIM, ITEMS = 16, 40
TRAINING = [
    {"name": "as shipped", "best_s": 0.02, "events": 2000, "peak_mb": 300, "cpu_s": 3},
    {"name": "padded windows", "best_s": 0.04, "events": 1000, "peak_mb": 310, "cpu_s": 4},
]
QUICK = {"dim": DIM, "epochs": 3, "batch_tokens": 128, "shards": 1, "lr": 1e-2, "table_lr": 1e-2}


def test_the_ladder_is_priced_from_a_folder_to_files(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    data = write_folder(tmp_path / "clubs", interactions())
    (tmp_path / "t.json").write_text(json.dumps({"rows": TRAINING}))
    files = ["--json", tmp_path / "p.json", "--html", tmp_path / "p.html", "--training", tmp_path / "t.json"]
    sets = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
    command = ["-m", "slipstream", "price", "--data", data, "--board", "loo", *files, *sets]
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "p.json").read_text())
    rungs = {rung["name"]: rung for rung in written["rungs"]}
    assert [*rungs] == [
        "float32", "int8_certified", "bf16", "int8", "mixed", "int4", "mixed_all", "int4_all",
    ]  # fmt: skip
    page = (tmp_path / "p.html").read_text()
    assert page.count("<svg") == 2
    for name, rung in rungs.items():
        assert set(rung) == KEYS
        assert name in done.stdout
        assert name in page
        low, high = rung["ndcg_delta_interval"]
        assert low <= rung["ndcg_delta"] <= high
        assert rung["ndcg_delta"] == pytest.approx(rung["ndcg"] - rungs["float32"]["ndcg"], abs=1e-12)
        assert rung["answer_p99_us"] >= rung["answer_p50_us"] > 0
        assert rung["step_p99_us"] >= rung["step_us"] > 0
        assert rung["scan_p99_us"] >= rung["scan_us"] > 0
        assert rung["open_ms"] > 0
        assert 1 >= rung["hr"] >= rung["ndcg"]
        assert rung["release_bytes"] > 0
        assert rung["exact"] is (name in ("float32", "int8_certified"))
        assert 0 <= rung["overlap@10"] <= 1
    assert written["left_out"] == {"codes": "40 items are fewer than the 256 of a code book"}
    assert "codes is left out: 40 items" in done.stdout
    assert written["users"] == 60
    assert rungs["float32"]["ndcg"] > 0.25  # the ring is there to be learned
    certified = rungs["int8_certified"]
    assert (certified["ndcg_delta"], certified["ndcg_delta_interval"], certified["overlap@10"]) == (
        0,
        [0, 0],
        1,
    )
    sizes = {name: rung["bytes_per_item"] for name, rung in rungs.items()}
    assert sizes["float32"] == 4 * DIM
    assert sizes["bf16"] == 2 * DIM
    assert sizes["int8"] == DIM + 4
    assert sizes["int4"] == 16 + 2
    assert sizes["mixed"] == (sizes["int8"] + sizes["int4"]) / 2 + 1 / 8
    bytes_ = [rungs[name]["model_bytes"] for name in ("float32", "bf16", "int8", "mixed", "int4")]
    assert bytes_ == sorted(bytes_, reverse=True)
    assert rungs["int4_all"]["pareto"]
    levers = {lever["name"]: lever for lever in written["levers"]}
    assert [*levers] == [
        "int8 search index", "state of a user", "idle states in int8", "answers in batches",
        f"threads: {thread_count()} (wall clock)", "lists made before",
    ]  # fmt: skip
    assert all(lever["on_us"] > 0 and lever["off_us"] > 0 and lever["bytes"] > 0 for lever in levers.values())
    assert levers["lists made before"]["bytes"] == 10 * (4 + 4)
    assert 0.5 < levers.pop("idle states in int8")["overlap@10"] <= 1
    assert all(lever["overlap@10"] == 1 for lever in levers.values())
    packed, stop = written["training_levers"]
    assert (packed["name"], packed["on"], packed["off"], packed["measuring_s"]) == (
        "packed sequences",
        pytest.approx(10.0),
        pytest.approx(40.0),
        7,
    )
    assert stop["name"] == "early stop"
    assert 0 < stop["on"] <= stop["off"]
    assert "packed sequences" in done.stdout


def test_a_model_without_such_weights_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ease cannot be packed"):
        price(tmp_path / "nowhere", "ease", "loo")


def test_overlap_counts_the_share_of_the_first_list() -> None:
    ours = np.array([[1, 2, 3], [4, 5, -1], [-1, -1, -1]], np.int32)
    theirs = np.array([[3, 2, 9], [4, 5, -1], [-1, -1, -1]], np.int32)
    assert overlap(ours, theirs) == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert overlap(ours, ours) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"rows": [{"name": "as shipped"}]}',
        '{"rows": [1]}',
        json.dumps({"rows": TRAINING[1:]}),
        json.dumps({"rows": [TRAINING[0], TRAINING[1] | {"events": 0}]}),
        json.dumps({"rows": [TRAINING[0], TRAINING[1] | {"best_s": -1}]}),
        json.dumps({"rows": [TRAINING[0], TRAINING[1] | {"peak_mb": float("nan")}]}),
        " " * ((1 << 20) + 1),
    ],
)
def test_a_file_that_does_not_say_what_training_costs_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(BadInput, match=r"t\.json"):
        read_training(tmp_path / "t.json")


def test_a_training_that_was_stopped_saved_the_epochs_that_it_had_left() -> None:
    curve = [{"train_cpu_s": 10.0 * n} for n in range(1, 5)]
    (lever,) = early_stop(curve, 10)
    assert (lever.on, lever.off) == (40, 100)
    (done,) = early_stop([{"train_cpu_s": 0.195}] * 3, 3)
    assert done.on == done.off
    assert early_stop(curve, None) == early_stop([], 10) == early_stop([{"loss": 1.0}], 10) == ()

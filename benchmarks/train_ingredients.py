"""What does each part of the transformer's training cost, and how near is a step to the machine's matrix rate?

    python benchmarks/train_ingredients.py [--dim 128 --layers 4 --heads 4 --window 64 --items 3416 --tokens 2048]
        [--length 200 --median 90 --steps 10] [--rows "as shipped" "padded windows" …] [--json FILE]

Synthetic histories go through real training steps (forward, backward, optimizer) on one thread; their lengths are
log-normal around --median, cut at --length, as in a log of films. Each row changes one thing and is a process of its
own, so its peak memory is its own. Times are CPU time, best and median of the steps; the rate of the matrix units is
measured in turn with the steps. An event is a real one, padding is none. The share says how near a step is to the
floor of its own multiplications, padding included. `slipstream price --training FILE` shows what --json wrote.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slipstream.training.fit import FitPlan, _Run
from slipstream.training.next_item import NextItemPlan, NextItemTask
from slipstream.training.packing import GAP_BINS, Chunk, Histories, PackingPlan
from slipstream.training.transformer_network import NetworkShape, TransformerNetwork, block_of

Row = tuple[NetworkShape, NextItemPlan]
PADDED = "padded windows"


def rows_of(shape: NetworkShape, plan: NextItemPlan) -> dict[str, Row]:
    """The recipe as it is shipped on large logs, and each part taken out or exchanged."""
    return {
        "as shipped": (shape, plan),
        PADDED: (shape, plan),
        "float32, no bf16": (shape, replace(plan, dtype=torch.float32)),
        "all logits at once": (shape, replace(plan, loss="softmax-reference")),
        "sampled softmax, 512": (shape, replace(plan, loss="sampled")),
        "gBCE, 512": (shape, replace(plan, loss="gbce")),
        "sampled, 50,000 items": (replace(shape, items=50_000), replace(plan, loss="sampled")),
        "HSTU body": (replace(shape, body="hstu"), plan),
        "gated residuals": (replace(shape, residual="gated"), plan),
        "no dropout": (shape, replace(plan, dropout=0.0, attention_dropout=0.0)),
        "cosine output": (replace(shape, cosine=True), plan),
        "GELU": (replace(shape, ffn="gelu"), plan),
        "SwiGLU": (replace(shape, ffn="swiglu"), plan),
        "no clock": (replace(shape, gap_bins=0), plan),
    }


def matrix_rate(dtype: torch.dtype, rounds: int = 10) -> float:
    """FLOP per CPU second of a product shaped like the feed-forward layer's."""
    left, right = torch.randn(4096, 256).to(dtype), torch.randn(256, 1024).to(dtype)
    left @ right
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        left @ right
        best = min(best, time.process_time() - begun)
    return 2 * 4096 * 256 * 1024 / best


def flops_per_slot(shape: NetworkShape, span: int, compared: int) -> float:
    """Forward and backward: three products each for the loss, the layers' matrices and the attention."""
    wide = 2 * shape.hidden if shape.ffn == "swiglu" else shape.hidden
    gates = 2 * shape.dim if shape.residual == "gated" else 0
    matrices = shape.dim * (4 * shape.dim + wide + gates) + shape.hidden * shape.dim
    if shape.body == "hstu":
        matrices = 5 * shape.dim**2
    return 6 * (compared * shape.dim + shape.layers * (matrices + 2 * span * shape.dim))


def histories_of(events: int, length: int, median: int, items: int) -> Histories:
    """At least so many events; the last of each history is a target only."""
    random = np.random.default_rng(0)
    lengths = np.exp(random.normal(np.log(median), 1.0, 2 + 2 * events // median)).astype(np.int64)
    lengths = np.clip(lengths, 2, length + 1)
    lengths = lengths[: 1 + int(np.searchsorted(np.cumsum(lengths), events + 2 * length))]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    chance = 1 / np.arange(1, items + 1)
    item = random.choice(items, offsets[-1], p=chance / chance.sum()).astype(np.int32)
    return Histories(offsets, item, random.integers(0, GAP_BINS, offsets[-1]).astype(np.uint8))


def padded(histories: Histories, plan: PackingPlan) -> Iterator[Chunk]:
    """The usual layout: every history has a window of `plan.window` slots to itself, and the rest is empty."""
    assert histories.gap is not None
    each = plan.chunk // plan.window
    for at in range(0, len(histories.offsets) - 1, each):
        item, gap, wait = np.zeros(plan.chunk, np.int32), *(np.zeros(plan.chunk, np.uint8) for _ in range(2))
        first = np.arange(plan.chunk, dtype=np.int32)
        target, weight = np.zeros((plan.chunk, 1), np.int32), np.zeros((plan.chunk, 1), np.float32)
        for place in range(min(each, len(histories.offsets) - 1 - at)):
            start, stop = histories.offsets[at + place], histories.offsets[at + place + 1] - 1
            slots = slice(place * plan.window, place * plan.window + int(stop - start))
            item[slots], gap[slots] = histories.item[start:stop], histories.gap[start:stop]
            wait[slots], first[slots] = histories.gap[start + 1 : stop + 1], place * plan.window
            target[slots, 0], weight[slots] = histories.item[start + 1 : stop + 1], 1.0
        yield Chunk(item, gap, wait, first, target, weight, int(weight.sum()), np.zeros(0, np.int64))


def measure(name: str, row: Row, length: int, median: int, steps: int) -> dict[str, float]:
    """CPU seconds of a step and of an event, and the matrix rate beside them."""
    shape, plan = row
    histories = histories_of(plan.packing.chunk * (steps + 4), length, median, shape.items)
    task = NextItemTask(TransformerNetwork(shape, 0), histories, plan, seed=0)
    run = _Run(task, FitPlan(epochs=1, lr=1e-3, table_lr=1e-3), None, lambda done, total, note: None)
    dropout = task.dropout(0, 0)
    chunks = padded(histories, plan.packing) if name == PADDED else (batch[0] for batch in task.batches(0))
    times, tokens, rate = [], 0, 0.0
    for number, chunk in enumerate(chunks):
        if number == steps + 2:
            break
        begun = time.process_time()
        run._update([run._gradients(chunk, dropout, chunk.tokens)])
        if number >= 2:  # two to warm up
            times.append(time.process_time() - begun)
            tokens += chunk.tokens
        rate = max(rate, matrix_rate(plan.dtype, 2))
    return {
        "best_s": min(times),
        "median_s": float(np.median(times)),
        "events": tokens / len(times),
        "rate": rate,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "cpu_s": time.process_time(),
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (
        ("dim", 128), ("layers", 4), ("heads", 4), ("window", 64), ("items", 3416), ("tokens", 2048),
        ("length", 200), ("median", 90), ("steps", 10),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--json", type=Path, help="write the figures of all rows to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    a = options()
    torch.set_num_threads(1)
    shape = NetworkShape(a.items, a.dim, a.layers, a.heads, a.window, gap_bins=GAP_BINS)
    block = block_of(a.window)
    plan = NextItemPlan(PackingPlan(a.length, a.tokens // block * block), dtype=torch.bfloat16)
    rows = rows_of(shape, plan)
    if a.child:
        print(json.dumps(measure(a.child, rows[a.child], a.length, a.median, a.steps)))
        return
    print("command:", " ".join(["python", *sys.argv]))
    print(
        f"machine: {platform.machine()}, python {platform.python_version()}, torch {torch.__version__}, 1 thread"
    )
    print(f"{'':22}{'best ms':>9}{'median':>9}{'events':>8}{'events/CPU s':>14}", end="")
    print(f"{'GFLOP/s':>9}{'floor':>8}{'share':>7}{'peak MB':>9}")
    span = block * (1 + -(-(a.window - 1) // block))
    found = []
    for name, row in rows.items():
        if not a.rows or name in a.rows:
            found.append({"name": name} | child(name))
            tell(name, row, span, found[-1])
    if a.json is not None:
        about = {"command": " ".join(sys.argv), "machine": platform.machine(), "torch": torch.__version__}
        a.json.write_text(json.dumps(about | {"rows": found}, indent=1))


def child(name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
    return found


def tell(name: str, row: Row, span: int, m: dict[str, Any]) -> None:
    shape, plan = row
    compared = plan.negatives + 1 if plan.loss in ("sampled", "gbce") else shape.items
    done = flops_per_slot(shape, span, compared) * plan.packing.chunk / m["best_s"]
    print(
        f"{name:22}{m['best_s'] * 1e3:9.1f}{m['median_s'] * 1e3:9.1f}{m['events']:8.0f}"
        f"{m['events'] / m['best_s']:14,.0f}{done / 1e9:9.0f}{m['rate'] / 1e9:8.0f}{done / m['rate']:7.0%}"
        f"{m['peak_mb']:9,.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

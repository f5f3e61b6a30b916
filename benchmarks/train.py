"""How fast does the transformer train, against the machine's matrix rate, and what does each part cost?

    python benchmarks/train.py [--dim 128 --layers 4 --heads 4 --window 64 --items 3416 --tokens 2048]

Synthetic histories of the given shape go through real training steps (forward, backward, optimizer) on one
thread. Each row changes one thing. Times are CPU time, best and median of the steps; the rate of the
matrix units is measured in the same process, in turn with the steps. The share says how near a step is to
the floor of its own multiplications.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from slipstream.training.fit import FitPlan, _Run
from slipstream.training.next_item import NextItemPlan, NextItemTask
from slipstream.training.packing import GAP_BINS, Histories, PackingPlan
from slipstream.training.transformer_network import NetworkShape, TransformerNetwork, block_of


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


def flops_per_token(shape: NetworkShape, plan: NextItemPlan, span: int) -> float:
    """Forward and backward: three products each for the loss, the layers' matrices and the attention."""
    compared = plan.negatives + 1 if plan.loss in ("sampled", "gbce") else shape.items
    wide = 2 * shape.hidden if shape.ffn == "swiglu" else shape.hidden
    gates = 2 * shape.dim if shape.residual == "gated" else 0
    matrices = shape.dim * (4 * shape.dim + wide + gates) + shape.hidden * shape.dim
    return 6 * (compared * shape.dim + shape.layers * (matrices + 2 * span * shape.dim))


def histories_of(tokens: int, length: int, items: int) -> Histories:
    random = np.random.default_rng(0)
    count = tokens // length + 2
    offsets = np.arange(count + 1) * length
    chance = 1 / np.arange(1, items + 1)
    item = random.choice(items, offsets[-1], p=chance / chance.sum()).astype(np.int32)
    return Histories(offsets, item, random.integers(0, GAP_BINS, offsets[-1]).astype(np.uint8))


def measure(shape: NetworkShape, plan: NextItemPlan, length: int, steps: int) -> tuple[float, float, float]:
    """Best and median CPU seconds a step, and the matrix rate beside them."""
    histories = histories_of(plan.packing.chunk * (steps + 3), length, shape.items)
    task = NextItemTask(TransformerNetwork(shape, 0), histories, plan, seed=0)
    run = _Run(task, FitPlan(epochs=1, lr=1e-3, table_lr=1e-3), None, lambda done, total, note: None)
    dropout = task.dropout(0, 0)
    times, rate = [], 0.0
    for number, (chunk,) in enumerate(task.batches(0)):
        if number == steps + 2:
            break
        begun = time.process_time()
        run._update([run._gradients(chunk, dropout, chunk.tokens)])
        if number >= 2:  # two to warm up
            times.append(time.process_time() - begun)
        rate = max(rate, matrix_rate(plan.dtype, 2))
    return min(times), float(np.median(times)), rate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("dim", 128), ("layers", 4), ("heads", 4), ("window", 64), ("items", 3416), ("tokens", 2048),
        ("length", 150), ("steps", 10),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    torch.set_num_threads(1)
    print("command:", " ".join(sys.argv))
    versions = f"python {platform.python_version()}, torch {torch.__version__}"
    print(f"machine: {platform.machine()}, {versions}, 1 thread")
    shape = NetworkShape(a.items, a.dim, a.layers, a.heads, a.window, gap_bins=GAP_BINS)
    block = block_of(a.window)
    span = block * (1 + -(-(a.window - 1) // block))
    base = NextItemPlan(PackingPlan(a.length, a.tokens // block * block), dtype=torch.bfloat16)
    rows = {
        "as shipped": (shape, base),
        "float32": (shape, replace(base, dtype=torch.float32)),
        "all logits at once": (shape, replace(base, loss="softmax-reference")),
        "sampled softmax, 512": (shape, replace(base, loss="sampled")),
        "gBCE, 512": (shape, replace(base, loss="gbce")),
        "sampled, 50,000 items": (replace(shape, items=50_000), replace(base, loss="sampled")),
        "gated residuals": (replace(shape, residual="gated"), base),
        "no dropout": (shape, replace(base, dropout=0.0, attention_dropout=0.0)),
        "cosine output": (replace(shape, cosine=True), base),
        "GELU": (replace(shape, ffn="gelu"), base),
        "SwiGLU": (replace(shape, ffn="swiglu"), base),
        "no clock": (replace(shape, gap_bins=0), base),
    }
    print(f"{'':24}{'best ms':>9}{'median':>9}{'events/CPU s':>14}{'GFLOP/s':>9}{'floor':>8}{'share':>7}")
    for name, (network, plan) in rows.items():
        best, median, rate = measure(network, plan, a.length, a.steps)
        done = flops_per_token(network, plan, span) * plan.packing.chunk / best
        print(
            f"{name:24}{best * 1e3:9.1f}{median * 1e3:9.1f}{plan.packing.chunk / best:14,.0f}"
            f"{done / 1e9:9.0f}{rate / 1e9:8.0f}{done / rate:7.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()

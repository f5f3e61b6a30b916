"""The peer of benchmarks/train.py: RecTools' SASRec, one epoch after the other, asked for validation after each.

    python train_rectools.py JOB.json     (run by train.py, in the peer's own environment; no slipstream here)

The job names an .npz file of training events in their order (user, item) and validation targets (asked, target),
the peer's settings, and when to stop. CPU seconds are those of the epochs alone: preparing the data,
building the model and asking for the lists are told apart. Prints one JSON object as its last line.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

SPENT = {"epoch": 0.0, "all": 0.0}  # CPU seconds


class Clock(Callback):
    """CPU seconds between the first and the last step of an epoch."""

    def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
        SPENT["epoch"] = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        SPENT["all"] += time.process_time() - SPENT["epoch"]


def trainer_of(epochs: int = 1) -> Trainer:
    return Trainer(
        max_epochs=epochs, min_epochs=epochs, accelerator="cpu", devices=1, logger=False, callbacks=[Clock()],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def main() -> None:
    warnings.filterwarnings("ignore")
    with open(sys.argv[1]) as stream:
        job = json.load(stream)
    torch.set_num_threads(job["threads"])
    seed_everything(job["seed"], verbose=False)
    dataset, targets = read(job)
    model = SASRecModel(**job["settings"], get_trainer_func=trainer_of)
    curve: list[dict[str, float]] = []
    asked_cpu_s = best = 0.0
    stale = 0
    while len(curve) < job["epochs"] and stale < job["patience"] and SPENT["all"] < job["cpu_s"]:
        begun = time.perf_counter()
        model.fit_partial(dataset, min_epochs=1, max_epochs=1)
        wall = time.perf_counter() - begun
        begun = time.process_time()
        value = ndcg(model, dataset, targets)
        asked_cpu_s += time.process_time() - begun
        row = {
            "epoch": len(curve) + 1,
            "train_cpu_s": SPENT["all"],
            "wall_s": wall,
            "validation_ndcg@10": value,
        }
        curve.append(row)
        print(
            f"  epoch {len(curve)}: {SPENT['all']:.1f} CPU s, validation NDCG@10 {value:.4f}", file=sys.stderr
        )
        best, stale = (value, 0) if value > best else (best, stale + 1)
    told = {
        "curve": curve,
        "asked_cpu_s": asked_cpu_s,
        "all_cpu_s": time.process_time(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {name: version(name) for name in ("rectools", "torch", "pytorch-lightning", "numpy")},
    }
    print(json.dumps(told))


def read(job: dict[str, Any]) -> tuple[Dataset, pd.DataFrame]:
    """The order of the events becomes their time, a second apart: ties keep the order they have."""
    data = np.load(job["data"])
    frame = pd.DataFrame(
        {
            Columns.User: data["user"],
            Columns.Item: data["item"],
            Columns.Weight: 1,
            Columns.Datetime: pd.to_datetime(np.arange(len(data["user"])), unit="s"),
        }
    )
    return Dataset.construct(frame), pd.DataFrame({"user_id": data["asked"], "item_id": data["target"]})


def ndcg(model: SASRecModel, dataset: Dataset, targets: pd.DataFrame) -> float:
    """Mean of 1 / log2(rank + 1) of the one target among the first ten, else 0; seen items filtered."""
    lists = model.recommend(
        targets["user_id"].to_numpy(), dataset, k=10, filter_viewed=True, on_unsupported_targets="ignore"
    )
    hits = lists.merge(targets, left_on=[Columns.User, Columns.Item], right_on=["user_id", "item_id"])
    return float((1 / np.log2(hits[Columns.Rank] + 1)).sum() / len(targets))


if __name__ == "__main__":
    main()

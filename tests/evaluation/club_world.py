"""A small world for trials: two clubs of users who walk through the items of their club in a ring.

The item after the last one is the next of the ring, so a model that knows the order hits every time, one that
knows the clubs hits often, and popularity seldom does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import pytest

from slipstream.artifacts import Artifact, ArtifactWriter
from slipstream.config import Settings
from slipstream.dataset.queries import Queries
from slipstream.errors import BadInput
from slipstream.models.recommender import FitContext, FitReport, ScoreMatrix, TrainingData

SHARED = Path(os.environ.get("SLIPSTREAM_SHARED", Path(__file__).parents[3] / "shared"))
CLUBS, RING = 2, 20
FIGURES = ("HR", "NDCG", "MRR", "Recall", "Precision")


def interactions(users: int = 60, *, seed: int = 0) -> pl.DataFrame:
    """user_id, item_id, rating, timestamp, split: 8 to 15 steps of each user's walk."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        start, length = int(random.integers(RING)), int(random.integers(8, 16))
        clock = 1_000_000 + int(random.integers(50_000))
        for step in range(length):
            clock += int(random.choice([0, 20, 1_000, 90_000]))
            item = f"club{user % CLUBS}-{(start + step) % RING:02d}"
            part = "test" if step >= length - 2 else "valid" if step == length - 3 else "train"
            rows.append((f"u{user:03d}", item, 1.0 + step % 5, clock, part))
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp", "split"], orient="row")
    return frame.sort("timestamp", maintain_order=True)


def write_folder(
    path: Path, rows: pl.DataFrame, *, catalogue: bool = False, people: bool = False, graph: bool = False
) -> Path:
    """The world as a data folder."""
    path.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(path / "interactions.parquet")
    items = rows["item_id"].unique().sort()
    if catalogue:
        club = items.str.slice(0, 5)
        pl.DataFrame({"item_id": items, "club": club}).write_parquet(path / "items.parquet")
    if people:
        users = rows["user_id"].unique().sort()
        pl.DataFrame({"user_id": users, "age": pl.int_range(len(users), eager=True)}).write_parquet(
            path / "users.parquet"
        )
    if graph:
        names = [f"entity of {item}" for item in items]
        tails = [f"club {item[4]}" for item in items]
        pl.DataFrame({"head": names, "relation": ["belongs to"] * len(items), "tail": tails}).write_parquet(
            path / "kg.parquet"
        )
        pl.DataFrame({"item_id": items, "entity_id": names}).write_parquet(path / "item_links.parquet")
    return path


class FollowerSettings(Settings):
    decay: float = 0.5
    chosen: float | None = None


class Follower:
    """Counts what followed what: knows the answer on the world of clubs. Its notes tell what it was given."""

    settings_type: ClassVar[type[Settings]] = FollowerSettings
    refits: ClassVar[bool] = True

    def __init__(self, follows: np.ndarray[Any, Any], settings: FollowerSettings, report: FitReport) -> None:
        self.settings: Settings = settings
        self.report = report
        self._follows = follows

    @classmethod
    def preset(cls, data: TrainingData) -> FollowerSettings:
        return FollowerSettings()

    @classmethod
    def fit(cls, data: TrainingData, settings: FollowerSettings, context: FitContext) -> Self:
        if not data.train.ordered:
            raise BadInput("the follower needs an order", hint="choose another model")
        if settings.chosen is None and data.validation is not None:
            settings = settings.model_copy(update={"chosen": 0.25})
        count = data.train.item_count
        follows = np.zeros((count, count), np.float32)
        for user in range(data.train.user_count):
            past = data.train.history(user)
            np.add.at(follows, (past[:-1], past[1:]), 1.0)
        notes = {
            "events": data.train.event_count,
            "validation": data.validation is not None,
            "sides": [data.item_features is not None, data.user_features is not None, data.graph is not None],
            "chosen": settings.chosen,
        }
        curve = [{"step": float(s), "loss": 1.0 / (s + 1), "validation_ndcg": s / 10} for s in range(4)]
        return cls(follows, settings, FitReport(curve=curve, notes=notes))

    def score(self, queries: Queries) -> ScoreMatrix:
        last = np.array(
            [queries.history(q)[-1] if len(queries.history(q)) else 0 for q in range(len(queries))]
        )
        return self._follows[last].copy()

    def save(self, writer: ArtifactWriter) -> None:
        writer.array("follows", self._follows)

    @classmethod
    def load(cls, artifact: Artifact, settings: FollowerSettings) -> Self:
        return cls(artifact.array("follows"), settings, FitReport())


def shared_data(name: str) -> Path:
    """A real data set, or a skip."""
    folder = SHARED / "data" / name
    if not (folder / "interactions.parquet").exists():
        pytest.skip(f"{name} is not here: point SLIPSTREAM_SHARED at the folder that holds data/{name}")
    return folder


def judged(folder: Path, board: str, slates: Path, k: int) -> dict[str, Any]:
    """What the independent scorer says of a file of slates."""
    tool = SHARED / "tools" / "score_slates.py"
    if not tool.exists():
        pytest.skip("the independent scorer is not here: point SLIPSTREAM_SHARED at the folder of tools/")
    command = [sys.executable, str(tool), str(folder), board, str(slates), "--k", str(k)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer

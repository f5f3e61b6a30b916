"""A little world of films with known answers, and a model of three lines that can explain itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries
from slipstream.dataset.snapshot import Snapshot, snapshot_of
from slipstream.models.recommender import FitContext, FitReport, Hop, PathGroup, PathReason, TrainingData
from slipstream.models.registry import model_type
from slipstream.recommend.release import Named, PipelineSettings, Release, write_release

FILMS = pl.DataFrame(
    {
        "item_id": [f"f{n}" for n in range(8)],
        "title": ["Star", "Empire", "Jaws", "E.T.", "Alien", "Aliens", "Heat", "Up|Down"],
        "director": ["Lucas", "Kershner", "Spielberg", "Spielberg", "Scott", "Cameron", "Mann", None],
        "genre": [
            ["space"],
            ["space"],
            ["sea"],
            ["space", "family"],
            ["space"],
            ["space"],
            ["crime"],
            ["family"],
        ],
        "year": [1977, 1980, 1975, 1982, 1979, 1986, 1995, 2009],
    }
)

HISTORIES = {
    "ann": ["f0", "f1", "f2"],
    "bob": ["f0", "f1", "f3"],
    "cat": ["f0", "f4", "f5"],
    "dan": ["f1", "f0", "f4"],
    "eve": ["f6"],
}


def snapshot() -> Snapshot:
    rows = [(user, item, place) for user, items in HISTORIES.items() for place, item in enumerate(items)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row")
    from slipstream.dataset.vocabulary import Vocabulary

    return snapshot_of(frame, items=Vocabulary.of(FILMS["item_id"].to_list()))


def popularity(data: Snapshot) -> Named:
    cls = model_type("popularity")
    training = TrainingData(data)
    return Named("popularity", cls.fit(training, cls.preset(training), FitContext()))


def release(folder: Path, name: str = "r1", **more: Any) -> Release:
    data = snapshot()
    model = popularity(data)
    settings = more.pop("settings", PipelineSettings(verbs={"watch": "watched"}))
    write_release(
        folder, name, snapshot=data, primary=model, popularity=model, items=FILMS, settings=settings, **more
    )
    return Release.open(folder / name)


@dataclass
class CoCounts:
    """score(i) = Σ over the history of the number of people who took both; NaN for a film nobody took."""

    together: NDArray[np.float32]  # [I, I]
    names: list[str]
    report: FitReport = field(default_factory=FitReport)

    @classmethod
    def of(cls, data: Snapshot) -> CoCounts:
        matrix = data.matrix().toarray()
        together = (matrix.T @ matrix).astype(np.float32)
        np.fill_diagonal(together, 0)
        together[:, matrix.sum(axis=0) == 0] = np.nan
        return cls(together, data.items.to_list())

    def score(self, queries: Queries) -> NDArray[np.float32]:
        rows = []
        for q in range(len(queries)):
            history = queries.history(q)
            history = history[history >= 0]
            row = self.together[history].sum(axis=0) if len(history) else np.full(len(self.names), np.nan)
            rows.append(row)
        return np.array(rows, np.float32).reshape(len(queries), len(self.names))

    def contributions(self, query: Queries, items: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.together[query.item][:, items].T

    def paths(self, query: Queries, item: int, limit: int) -> list[PathReason]:
        weights = {int(h): float(self.together[h, item]) for h in query.item}
        total = sum(weights.values())
        found = [
            PathReason(
                (
                    Hop("?", "touched", self.names[h], 1.0),
                    Hop(self.names[h], "similar_to", self.names[item], weight),
                ),
                weight,
                weight / total,
            )
            for h, weight in sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))
            if weight > 0
        ]
        return found[:limit]

    def paths_to(self, query: Queries, items: Sequence[int], limit: int) -> list[list[PathReason]]:
        return [self.paths(query, item, limit) for item in items]

    def path_groups(self, query: Queries, items: Sequence[int], limit: int) -> list[list[PathGroup]]:
        """All paths to an item are one group."""
        found = [self.paths(query, item, len(query.item)) for item in items]
        starts = [tuple(path.hops[0].tail for path in paths[1:]) for paths in found]
        return [[PathGroup(p[0], s, 1.0)] if p else [] for p, s in zip(found, starts, strict=True)]


def with_model(opened: Release, model: Any) -> Release:
    """The release with another primary model put in its place, as if it had been loaded from its files."""
    opened.__dict__["primary"] = model
    opened.__dict__.pop("by_paths", None)
    return opened

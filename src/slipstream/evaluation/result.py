"""The result of a trial: figures with intervals, figures per user, lists, costs, and its public JSON form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from slipstream.evaluation.scores import Scores, Slice, interval_pair
from slipstream.evaluation.stages import Cost
from slipstream.models.recommender import Recommender


@dataclass(frozen=True)
class Trial:
    """The result of one model on one board. `scores.values` keep the figures per user, for paired tests."""

    model: str
    board: str
    data: str
    seed: int
    k: int
    scores: Scores
    validation: Mapping[str, float]
    refit: bool
    users: int
    targets: int
    targets_sha256: str
    user_ids: pl.Series  # [Q], beside every column of scores.values
    slates: pl.DataFrame  # user_id, item_id, rank, score
    stages: Mapping[str, Cost]
    peak_rss_bytes: int
    threads: int
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    without: tuple[str, ...] = ()
    repeat: bool = False  # whether items of the history could come back
    overrides: Mapping[str, Any] = field(default_factory=dict)  # what was set by hand; the rest is the preset
    curve: Sequence[Mapping[str, float]] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    label: str = ""
    fitted: Recommender | None = None  # only when asked to be kept

    @property
    def name(self) -> str:
        """What tables call it: the label, else the model and what it went without."""
        return self.label or " without ".join([self.model, *filter(None, [" and ".join(self.without)])])

    @property
    def metrics(self) -> Mapping[str, float]:
        return self.scores.metrics

    @property
    def cpu_s(self) -> float:
        return sum(cost.cpu_s for cost in self.stages.values())

    @property
    def wall_s(self) -> float:
        return sum(cost.wall_s for cost in self.stages.values())

    def to_json(self) -> dict[str, Any]:
        """The public form of a trial. Undefined figures are left out, so no NaN can be in it."""
        report: dict[str, Any] = {
            "model": self.model,
            "board": self.board,
            "data": self.data,
            "seed": self.seed,
            "k": self.k,
            "metrics": dict(self.scores.metrics),
            "intervals": {name: interval_pair(i) for name, i in self.scores.intervals.items()},
            "validation": dict(self.validation),
            "refit": self.refit,
            "users": self.users,
            "targets": self.targets,
            "targets_sha256": self.targets_sha256,
            "users_without_list": self.scores.users_without_list,
            "stages": {n: {"cpu_s": c.cpu_s, "wall_s": c.wall_s} for n, c in self.stages.items()},
            "peak_rss_bytes": self.peak_rss_bytes,
            "threads": self.threads,
            "config": dict(self.config),
            "set": dict(self.overrides),
            "without": list(self.without),
            "repeat": self.repeat,
            "versions": dict(self.versions),
            "curve": [dict(row) for row in self.curve],
        }
        if self.scores.by_gap:
            report["breakdown"] = {"gap": [_slice_json(part) for part in self.scores.by_gap]}
        if self.faults:
            report["faults"] = dict(self.faults)
        return report


def _slice_json(part: Slice) -> dict[str, Any]:
    return {
        "slice": part.name,
        "users": part.users,
        "NDCG@10": part.ndcg.mean,
        "interval": interval_pair(part.ndcg),
    }

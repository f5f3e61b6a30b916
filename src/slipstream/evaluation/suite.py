"""Several models on several boards of one data set, side by side: what they share is done once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipstream.config import Progress, silent, thread_count
from slipstream.dataset.folder import DataFolder
from slipstream.errors import SlipstreamError
from slipstream.evaluation.arena import GraphMaker, open_arenas
from slipstream.evaluation.result import Trial
from slipstream.evaluation.trial import Run
from slipstream.models.recommender import FitContext
from slipstream.models.registry import model_type


@dataclass(frozen=True)
class Failure:
    """A model that could not take part, in its own words."""

    model: str
    board: str
    message: str
    hint: str


@dataclass(frozen=True)
class Suite:
    """The trials of several models on several boards, and those that failed."""

    trials: list[Trial]
    failures: list[Failure]


def suite(
    data: DataFolder | str | Path,
    models: Sequence[str],
    boards: Sequence[str],
    *,
    k: int = 10,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    checkpoint: str | None = None,
    device: str = "cpu",
    without: Collection[str] = (),
    graph: GraphMaker | None = None,
    goal: str | None = None,
    repeat: bool = False,
    keep_models: bool = False,
) -> Suite:
    """Run every model on every board; reading, cutting, features and graph are done once.

    goal: only events of this kind are targets. repeat: items of the history may come back, and are targets.
    An override behind the name of a model is for that model only. A model that cannot run on a board becomes
    a failure, the others go on; a board that cannot be cut from this data is an error, as nobody could run.
    """
    kinds = {name: model_type(name) for name in models}
    arenas = open_arenas(data, boards, seed=seed, without=without, graph=graph, goal=goal, repeat=repeat)
    trials, failures = [], []
    total = len(arenas) * len(models)
    for done, (arena, name) in enumerate((a, n) for a in arenas for n in models):
        what = f"{arena.board.name}: {name}"
        progress(done, total, what)
        folder = None if checkpoint is None else str(Path(checkpoint) / f"{arena.board.name}-{name}")
        context = FitContext(
            seed, threads or thread_count(), inner(progress, done, total, what), folder, device
        )
        run = Run(arena, name, kinds[name], k, context, keep_models)
        try:
            trials.append(run.trial(_for_model(overrides or {}, name, models)))
        except SlipstreamError as error:
            failures.append(Failure(name, arena.board.name, error.message, error.hint))
    progress(total, total, "done")
    return Suite(trials, failures)


def inner(progress: Progress, done: int, total: int, what: str) -> Progress:
    """What a model tells while it works, as a note of the whole; the count stays that of the suite."""

    def tell(step: int, steps: int | None, note: str) -> None:
        share = f" {step / steps:.0%}" if steps else ""
        progress(done, total, f"{what}: {note}{share}")

    return tell


def _for_model(overrides: Mapping[str, Any], name: str, models: Sequence[str]) -> dict[str, Any]:
    """The overrides without those that another model of the suite owns."""
    others = {model for model in models if model != name}
    return {key: value for key, value in overrides.items() if key.partition(".")[0] not in others}

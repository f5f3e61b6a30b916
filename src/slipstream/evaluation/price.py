"""What each saving costs: one model, fitted once, on the ladder of compression, and levers on and off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipstream.cluster.threads import blas_threads
from slipstream.compression.quantization import left_out
from slipstream.config import Progress, silent, thread_count
from slipstream.errors import UsageError
from slipstream.evaluation.arena import open_arenas
from slipstream.evaluation.ladder import Asked, K, Priced, ladder, measured
from slipstream.evaluation.levers import Lever, TrainingLever, early_stop, levers_of
from slipstream.evaluation.stages import Stopwatch
from slipstream.evaluation.trial import Run, settings_for
from slipstream.models.recommender import Compressible, FitContext
from slipstream.models.registry import model_type


@dataclass(frozen=True)
class Of:
    """Whose price it is."""

    model: str
    data: str
    board: str
    seed: int


@dataclass(frozen=True)
class Price:
    of: Of
    users: int
    rungs: tuple[Priced, ...]
    levers: tuple[Lever, ...]
    training: tuple[TrainingLever, ...]
    left_out: dict[str, str]  # rungs that the model is too small for, and why

    def to_json(self) -> dict[str, Any]:
        return vars(self.of) | {
            "users": self.users,
            "rungs": [rung.to_json() for rung in self.rungs],
            "levers": [lever.to_json() for lever in self.levers],
            "training_levers": [dict(vars(lever)) for lever in self.training],
            "left_out": self.left_out,
        }


def price(
    data: str | Path,
    model_name: str,
    board_name: str,
    *,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    checkpoint: str | None = None,
    device: str = "cpu",
) -> Price:
    """Fit `model_name` on the past of the board and measure every rung on what followed.

    Raises UsageError for a model that cannot be packed, BadInput where a weight has no place in a form.
    """
    kind: Any = model_type(model_name)
    check_packable(model_name, kind)
    (arena,) = open_arenas(data, [board_name], seed=seed)
    context = FitContext(seed, thread_count(), progress, checkpoint, device)
    watch = Stopwatch()
    with blas_threads():
        settings = settings_for(kind.preset(arena.data), model_name, overrides or {})
        run = Run(arena, model_name, kind, K, context, keep_model=True)
        model: Any = run.fitted(settings, watch)[0]
        cut = arena.board
        asked = Asked(cut.test, cut.past.items, cut.past.users, cut.train.item_counts, cut.candidates)
        return price_of(
            model, asked, Of(model_name, arena.data_name, board_name, seed), watch.costs["fit"].cpu_s
        )


def check_packable(name: str, kind: type) -> None:
    """Raises UsageError for a model whose weights have no packed form."""
    if not issubclass(kind, Compressible):
        raise UsageError(f"the weights of {name} cannot be packed", hint="the transformer's can")


def price_of(model: Compressible, asked: Asked, of: Of, train_cpu_s: float) -> Price:
    """The price of a fitted model. Raises BadInput where a weight has no place in a form."""
    rungs = ladder(of.model, model, asked)
    priced = measured(rungs, asked, train_cpu_s)
    levers = levers_of(rungs, asked)
    trained: Any = model
    stopped = early_stop(trained.report.curve, getattr(trained.settings, "epochs", None))
    return Price(of, len(asked.holdout), priced, levers, stopped, left_out(model))

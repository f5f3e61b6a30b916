"""What each saving costs on a home's own model, and the form of it that a budget picks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slipstream.cluster.threads import blas_threads
from slipstream.compression.quantization import left_out
from slipstream.config import Home
from slipstream.dataset.snapshot import Snapshot
from slipstream.dataset.validation import hold_out_last
from slipstream.errors import BadInput
from slipstream.evaluation.budget import Budget, budget_table, choose
from slipstream.evaluation.ladder import Asked, ladder, measured
from slipstream.evaluation.price import Of, Price, check_packable, price_of
from slipstream.evaluation.tables import plain_rows
from slipstream.loop.learning import trained_model, trained_models
from slipstream.loop.narrator import Narrator
from slipstream.models.recommender import Compressible

BOARD = "each user's last event"


@dataclass(frozen=True)
class Compressed:
    """The form of a model that goes into a release, and what the release tells of the choice."""

    model: Compressible
    record: dict[str, Any]


def price_home(home: Home, name: str) -> Price:
    """The price of a trained model, measured on the events that it was chosen on."""
    model, asked, meta = _asked(home, name)
    with blas_threads():
        return price_of(model, asked, Of(name, home.root.name, BOARD, meta["seed"]), meta["cpu_s"])


def within_budget(home: Home, name: str, budget: Budget, narrator: Narrator) -> Compressed:
    """The smallest form of a trained model that keeps the budget; the table is told, also where none does.

    Raises OverBudget, and BadInput for a model that cannot be measured or packed.
    """
    model, asked, meta = _asked(home, name)
    with blas_threads():
        rungs = ladder(name, model, asked)
        priced = measured(rungs, asked, meta["cpu_s"])
    table = budget_table(priced, budget)
    for left, why in left_out(model).items():
        narrator.line(f"{left} is left out: {why}")
    narrator.table(table.title, table.columns, plain_rows(table, joint=" "))
    choice = choose(priced, budget)
    chosen = next(rung.model for rung in rungs if rung.name == choice.rung.name)
    record = {
        "rung": choice.rung.name,
        "budget": budget.text,
        "why": choice.why,
        "users": len(asked.holdout),
        "rungs": [rung.to_json() for rung in priced],
    }
    return Compressed(chosen, record)


def _asked(home: Home, name: str) -> tuple[Compressible, Asked, dict[str, Any]]:
    model = trained_model(home, name)
    check_packable(name, type(model))
    assert isinstance(model, Compressible)  # noqa: S101 - `check_packable` has said so
    meta = dict(trained_models(home)[name])
    snapshot = Snapshot.open(home.snapshot)
    train, holdout = hold_out_last(snapshot, seed=meta["seed"], goal=meta.get("goal"))
    if holdout is None:
        raise BadInput(
            "no user has three events, so what a smaller model loses cannot be measured",
            hint="collect more, or release without --budget",
        )
    return model, Asked(holdout, snapshot.items, snapshot.users, train.item_counts), meta

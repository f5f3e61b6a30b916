"""What each saving costs: one model, fitted once, on the ladder of compression, and two levers on and off."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.cluster.threads import blas_threads
from slipstream.compression.quantization import left_out
from slipstream.config import Progress, silent, thread_count
from slipstream.dataset.queries import Queries, excluded_mask
from slipstream.errors import UsageError
from slipstream.evaluation.arena import open_arenas
from slipstream.evaluation.ladder import Asked, K, Priced, Served, ladder, measured, micros, timed
from slipstream.evaluation.stages import Stopwatch
from slipstream.evaluation.trial import Run, settings_for
from slipstream.models.recommender import Compressible, FitContext
from slipstream.models.registry import model_type


@dataclass(frozen=True)
class Lever:
    """Something that can be left off: what a request costs with and without it, and the memory it takes."""

    name: str
    on_us: float
    off_us: float
    bytes: int
    bytes_of: str


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
    left_out: dict[str, str]  # rungs that the model is too small for, and why

    def to_json(self) -> dict[str, Any]:
        return vars(self.of) | {
            "users": self.users,
            "rungs": [rung.to_json() for rung in self.rungs],
            "levers": [dict(vars(lever)) for lever in self.levers],
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
    levers = _levers(rungs, asked.holdout.queries)
    return Price(of, len(asked.holdout), priced, levers, left_out(model))


def _levers(rungs: list[Served], queries: Queries) -> tuple[Lever, ...]:
    plain, searched = rungs[0], rungs[1]
    asked = timed(queries)
    whole = [_spent(plain.model.query_vectors, query) for query in asked][1:]
    state = plain.model.start(asked[0]).nbytes
    return (
        Lever(
            "int8 search index", micros(searched.scan), micros(plain.scan), searched.index.nbytes, "release"
        ),
        Lever("state of a user", micros(plain.step), micros(whole), state, "user"),
        _together(searched, queries),
        _made_before(searched, asked),
    )


TOGETHER, ROUNDS = 64, 5


def _together(served: Served, queries: Queries) -> Lever:
    """Answers from the whole history, of one user: asked with others, or alone. Medians over some rounds.

    The bytes are of what is held for each of them at once: the items that the history takes out.
    """
    part = queries.part(0, min(TOGETHER, len(queries)))
    alone = [part.part(q, q + 1) for q in range(len(part))]

    def answer(some: Queries) -> None:
        excluded = excluded_mask(some, served.index.items, repeat=False)
        served.index.search(served.model.query_vectors(some), K, excluded=excluded)

    def one_by_one(_: Queries) -> None:
        for query in alone:
            answer(query)

    answer(part)  # caches are warm for both
    both = [[_spent(work, part) // len(part) for _ in range(ROUNDS)] for work in (answer, one_by_one)]
    return Lever("answers in batches", micros(both[0]), micros(both[1]), served.index.items, "user, at once")


def _made_before(served: Served, asked: list[Queries]) -> Lever:
    """A list that was kept, against making it: it is as old as its making, whatever happened since."""
    kept: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]] = {}
    for number, query in enumerate(asked):
        excluded = excluded_mask(query, served.index.items, repeat=False)
        items, scores = served.index.search(served.model.query_vectors(query), K, excluded=excluded)
        kept[number] = items[0], scores[0]
    looked_up = []
    for number in kept:
        began = time.process_time_ns()
        items, scores = kept[number][0].copy(), kept[number][1].copy()
        looked_up.append(time.process_time_ns() - began)
    return Lever(
        "lists made before", micros(looked_up), micros(served.answer), items.nbytes + scores.nbytes, "user"
    )


def _spent(work: Callable[[Queries], object], query: Queries) -> int:
    began = time.process_time_ns()
    work(query)
    return time.process_time_ns() - began

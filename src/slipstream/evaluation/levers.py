"""Savings that are no rung of the ladder, each on against off, of one fitted model.

Those of an answer are measured here. Those of training come from where training was measured once:
`benchmarks/train_ingredients.py --json`, and the model's own curve.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.config import thread_count
from slipstream.dataset.queries import Queries, excluded_mask
from slipstream.errors import BadInput
from slipstream.evaluation.ladder import Asked, K, Served, micros, overlap, timed
from slipstream.models.recommender import Rests

TOGETHER, ROUNDS = 64, 5
RESTED = 20
"""Events after each of which a state rests, before its answer is compared."""
MOST_BYTES = 1 << 20
INGREDIENTS = {
    "packed sequences": "padded windows",
    "streamed softmax": "all logits at once",
    "bfloat16": "float32, no bf16",
}
"""A lever of training, and the row of `train_ingredients.py` without it."""
SHIPPED = "as shipped"


@dataclass(frozen=True)
class Lever:
    """Something that can be left off: what a request costs with and without it, and the memory it takes.

    overlap: the mean share of the first 10 without it that are in the first 10 with it; 1 where it is exact.
    """

    name: str
    on_us: float
    off_us: float
    bytes: int
    bytes_of: str
    overlap: float = 1.0

    def to_json(self) -> dict[str, Any]:
        own = dict(vars(self))
        own["overlap@10"] = own.pop("overlap")
        return own


@dataclass(frozen=True)
class TrainingLever:
    """A saving of training. on, off: CPU, in `unit`. on_mb, off_mb: peak memory; None: not measured.

    measuring_s: CPU seconds that it took to find out.
    """

    name: str
    on: float
    off: float
    unit: str
    on_mb: float | None
    off_mb: float | None
    measuring_s: float


def levers_of(rungs: list[Served], asked: Asked) -> tuple[Lever, ...]:
    """rungs: float32 by NumPy, then the same with its int8 copy searched, as they were timed."""
    plain, searched = rungs[0], rungs[1]
    queries = asked.holdout.queries
    some = timed(queries)
    whole = [_spent(plain.model.query_vectors, query) for query in some][1:]
    state = plain.model.start(some[0])
    index = searched.index.nbytes
    found = [
        Lever("int8 search index", micros(searched.scan), micros(plain.scan), index, "release"),
        Lever("state of a user", micros(plain.step), micros(whole), state.nbytes, "user"),
        _together(searched, queries),
        _side_by_side(searched, queries),
        _made_before(searched, some),
    ]
    if isinstance(state, Rests):
        found.insert(2, _at_rest(searched, some, micros(whole)))
    return tuple(found)


def _at_rest(served: Served, asked: list[Queries], read_us: float) -> Lever:
    """The state of an idle user kept in int8: waking it, one event and putting it to rest, against a history
    read again, which is what a user without a state costs. The overlap is that after RESTED such events.
    """
    spent: list[int] = []
    ours: list[NDArray[np.int32]] = []
    theirs: list[NDArray[np.int32]] = []
    size = 0
    for query in asked[1:]:
        item, time_us = query.item, query.time_us
        before = max(len(item) - RESTED, 1)
        early = Queries(
            query.user, np.array([0, before]), item[:before], None if time_us is None else time_us[:before]
        )
        resting: Any = served.model.start(early)
        resting = resting.at_rest()
        for place in range(before, len(item)):
            began = time.process_time_ns()
            state = resting.awake()
            served.model.advance(state, int(item[place]), None if time_us is None else int(time_us[place]))
            resting = state.at_rest()
            spent.append(time.process_time_ns() - began)
        size = resting.nbytes
        excluded = excluded_mask(query, served.index.items, repeat=False)
        for lists, vector in (
            (ours, served.model.vector_from(resting.awake(), query)),
            (theirs, served.model.query_vectors(query)),
        ):
            lists.append(served.index.search(vector, K, excluded=excluded)[0][0])
    if not spent:  # nobody has two events
        return Lever("idle states in int8", read_us, read_us, size, "idle user")
    shared = overlap(np.array(ours), np.array(theirs))
    return Lever("idle states in int8", micros(spent), read_us, size, "idle user", shared)


def _answers(served: Served, part: Queries) -> Callable[[Queries], None]:
    def answer(some: Queries) -> None:
        excluded = excluded_mask(some, served.index.items, repeat=False)
        served.index.search(served.model.query_vectors(some), K, excluded=excluded)

    answer(part)  # caches are warm
    return answer


def _together(served: Served, queries: Queries) -> Lever:
    """Answers from the whole history, of one user: asked with others, or alone. Medians over some rounds.

    The bytes are of what is held for each of them at once: the items that the history takes out.
    """
    part = queries.part(0, min(TOGETHER, len(queries)))
    alone = [part.part(q, q + 1) for q in range(len(part))]
    answer = _answers(served, part)

    def one_by_one(_: Queries) -> None:
        for query in alone:
            answer(query)

    both = [[_spent(work, part) // len(part) for _ in range(ROUNDS)] for work in (answer, one_by_one)]
    return Lever("answers in batches", micros(both[0]), micros(both[1]), served.index.items, "user, at once")


def _side_by_side(served: Served, queries: Queries) -> Lever:
    """The same users one by one, by as many threads as there are cores, or by one: time of the wall clock."""
    part = queries.part(0, min(TOGETHER, len(queries)))
    alone = [part.part(q, q + 1) for q in range(len(part))]
    answer = _answers(served, part)
    both: tuple[list[int], list[int]] = ([], [])
    threads = thread_count()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(answer, alone))
        for _ in range(ROUNDS):
            began = time.perf_counter_ns()
            list(pool.map(answer, alone))
            middle = time.perf_counter_ns()
            for query in alone:
                answer(query)
            ended = time.perf_counter_ns()
            both[0].append((middle - began) // len(alone))
            both[1].append((ended - middle) // len(alone))
    name = f"threads: {threads} (wall clock)"
    return Lever(name, micros(both[0]), micros(both[1]), threads * served.index.items, "release")


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
    size = items.nbytes + scores.nbytes
    return Lever("lists made before", micros(looked_up), micros(served.answer), size, "user")


def early_stop(curve: Sequence[Mapping[str, float]], epochs: int | None) -> tuple[TrainingLever, ...]:
    """What a training of `epochs` would have cost in all, by the mean of those that it had; () if unknown.

    It is known from the curve, so finding out costs nothing.
    """
    if epochs is None or not curve or "train_cpu_s" not in curve[-1]:
        return ()
    spent = float(curve[-1]["train_cpu_s"])
    whole = spent * (max(epochs, len(curve)) / len(curve))  # exactly what was spent where all were done
    return (TrainingLever("early stop", spent, whole, "s in all", None, None, 0.0),)


def read_training(path: Path) -> tuple[TrainingLever, ...]:
    """The levers in what `benchmarks/train_ingredients.py --json` wrote. Raises BadInput."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
        found = tuple(
            _training_lever(name, rows[SHIPPED], rows[off])
            for name, off in INGREDIENTS.items()
            if off in rows
        )
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise BadInput(
            f"{path} does not say what training costs: {error}",
            hint="python benchmarks/train_ingredients.py --json FILE writes it",
        ) from error
    if not found:
        raise BadInput(f"{path} has none of the rows {', '.join(INGREDIENTS.values())}")
    return found


def _training_lever(name: str, on: dict[str, Any], off: dict[str, Any]) -> TrainingLever:
    each = [1e6 * float(row["best_s"]) / float(row["events"]) for row in (on, off)]
    peaks = [float(row["peak_mb"]) for row in (on, off)]
    cost_s = float(on["cpu_s"]) + float(off["cpu_s"])
    if not all(0 < value < float("inf") for value in (*each, *peaks, cost_s)):
        raise ValueError(f"{name} has a figure that is none")
    return TrainingLever(name, each[0], each[1], "µs an event", peaks[0], peaks[1], cost_s)


def _spent(work: Callable[[Queries], object], query: Queries) -> int:
    began = time.process_time_ns()
    work(query)
    return time.process_time_ns() - began

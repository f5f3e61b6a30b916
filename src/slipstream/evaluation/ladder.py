"""The ladder of compression: one trained model in fewer and fewer bits, every rung measured on one holdout.

Each rung answers all queries by searching its item vectors, so its lists are those that would be served; the
paired difference to float32 is over the same users. Times are CPU time of this process, the rungs in turn
user by user, so that what else runs here slows all alike.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.artifacts import open_artifact, writing
from slipstream.compression.quantization import RUNGS, left_out, packed_for
from slipstream.dataset.queries import Holdout, Queries, excluded_mask
from slipstream.dataset.vocabulary import Vocabulary
from slipstream.errors import UsageError
from slipstream.evaluation.intervals import Interval, paired_interval
from slipstream.evaluation.metrics import accuracy, mean
from slipstream.inference.item_index import ItemIndex
from slipstream.inference.packed_weights import total_bytes
from slipstream.models.recommender import Compressible
from slipstream.models.registry import load_model, save_model
from slipstream.recommend.ranking import BATCH

K = 10
TIMED_USERS = 200
FLOAT32, CERTIFIED = "float32", "int8_certified"


@dataclass(frozen=True)
class Priced:
    """One rung. Times in µs of CPU; users_per_s: lists of all users per CPU second, their histories read.

    model_bytes: the weights, and for `int8_certified` the int8 copy of the item table beside them (the rungs
    below make one when they are opened; it counts in resident_bytes alone).
    release_bytes: the model's folder with the vocabularies.
    resident_bytes: arrays that stay while it answers: items as packed, their search copy, float32 layers.
    open_ms: CPU from the files to a model that answers, its search copy included.
    exact: the lists are certified to be those of the float32 weights.
    overlap: mean share of float32's first 10 that are in the first 10 of this rung.
    """

    name: str
    model_bytes: int
    release_bytes: int
    bytes_per_item: float
    resident_bytes: int
    open_ms: float
    step_us: float
    step_p99_us: float
    scan_us: float
    scan_p99_us: float
    answer_p50_us: float
    answer_p99_us: float
    users_per_s: float
    hr: float
    ndcg: float
    ndcg_delta: Interval
    exact: bool
    overlap: float
    train_cpu_s: float
    pareto: bool

    def to_json(self) -> dict[str, Any]:
        own = dict(vars(self))
        delta = own.pop("ndcg_delta")
        own["ndcg_delta"], own["ndcg_delta_interval"] = delta.mean, [delta.low, delta.high]
        own["overlap@10"] = own.pop("overlap")
        return own


@dataclass(frozen=True)
class Asked:
    """What the rungs are measured on: queries with what followed, and the items that may be an answer.

    events: [I], of each item in what was learned from.
    candidates: [I] or [Q, I], True where an item may be; None: all may.
    """

    holdout: Holdout
    items: Vocabulary
    users: Vocabulary
    events: NDArray[np.int64]
    candidates: NDArray[np.bool_] | None = None


@dataclass
class Served:
    """A model as it would be served, and what was measured of it."""

    name: str
    model: Compressible
    index: ItemIndex
    model_bytes: int
    item_bytes: int
    resident_bytes: int
    release_bytes: int
    open_ms: float
    step: list[int] = field(default_factory=list)  # ns
    scan: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)


def ladder(name: str, model: Compressible, asked: Asked) -> list[Served]:
    """float32 by NumPy alone, the same with its int8 copy searched, then fewer and fewer bits.

    Rungs that the model is too small for are not there (`left_out` says why).
    """
    roles, without = model.weight_roles(), left_out(model)
    rungs = []
    for rung in RUNGS:
        if rung.name in without:
            continue
        packed = packed_for(model, rung, asked.events)
        small = model if rung.name == FLOAT32 else model.with_weights(packed)
        items = sum(p.nbytes for n, p in packed.items() if roles.get(n) == "items")
        index, (release, open_ms) = small.index(), _released(name, small, asked)
        weights, resident = total_bytes(packed), small.resident_bytes()
        if rung.name != FLOAT32:
            rungs.append(Served(rung.name, small, index, weights, items, resident, release, open_ms))
            continue
        alone, copy = index.without_kernel(), index.nbytes
        rungs.append(Served(rung.name, small, alone, weights, items, resident - copy, release, open_ms))
        copied = weights + copy, items + copy
        rungs.append(Served(CERTIFIED, small, index, *copied, resident, release, open_ms))
    return rungs


def _released(name: str, model: Any, asked: Asked) -> tuple[int, float]:
    """Bytes of the folder of the model and the vocabularies, its manifest left out; CPU ms of opening it."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        with writing(place, "model") as writer:
            save_model(name, model, writer)
            asked.items.write(writer, "items")
            asked.users.write(writer, "users")
        began = time.process_time_ns()
        artifact = open_artifact(place, "model")
        opened: Any = load_model(artifact)[1]
        opened.index()
        return artifact.size(), (time.process_time_ns() - began) / 1e6


def measured(rungs: list[Served], asked: Asked, train_cpu_s: float) -> tuple[Priced, ...]:
    _time(rungs, asked.holdout.queries)
    first: NDArray[np.int32] | None = None
    base: NDArray[np.float64] | None = None
    found: list[Priced] = []
    for rung in rungs:
        began = time.process_time_ns()
        lists = _lists(rung, asked)
        spent_s = (time.process_time_ns() - began) / 1e9
        values = accuracy(lists, asked.holdout, [K])
        ndcg = values[f"NDCG@{K}"]
        first, base = (lists, ndcg) if first is None or base is None else (first, base)
        found.append(
            Priced(
                name=rung.name,
                model_bytes=rung.model_bytes,
                release_bytes=rung.release_bytes,
                bytes_per_item=rung.item_bytes / max(rung.index.items, 1),
                resident_bytes=rung.resident_bytes,
                open_ms=rung.open_ms,
                step_us=micros(rung.step),
                step_p99_us=micros(rung.step, 99),
                scan_us=micros(rung.scan),
                scan_p99_us=micros(rung.scan, 99),
                answer_p50_us=micros(rung.answer),
                answer_p99_us=micros(rung.answer, 99),
                users_per_s=len(lists) / max(spent_s, 1e-6),
                hr=mean(values[f"HR@{K}"]),
                ndcg=mean(ndcg),
                ndcg_delta=paired_interval(ndcg, base),
                exact=rung.model is rungs[0].model,
                overlap=overlap(lists, first),
                train_cpu_s=train_cpu_s,
                pareto=False,
            )
        )
    return tuple(Priced(**(vars(rung) | {"pareto": _on_front(rung, found)})) for rung in found)


def _on_front(rung: Priced, rungs: list[Priced]) -> bool:
    """No other rung is as small and as good, and better in one. Times are left out: they are noise.

    It goes by the figures as measured: what lies within each other's interval may change places.
    """
    return not any(
        other.model_bytes <= rung.model_bytes
        and other.ndcg >= rung.ndcg
        and (other.model_bytes, -other.ndcg) != (rung.model_bytes, -rung.ndcg)
        for other in rungs
    )


def _lists(rung: Served, asked: Asked) -> NDArray[np.int32]:
    """The first K of every query."""
    lists = []
    for start, part in asked.holdout.queries.batches(BATCH):
        excluded = excluded_mask(part, rung.index.items, repeat=False)
        if asked.candidates is not None:
            allowed = asked.candidates
            excluded |= ~(allowed if allowed.ndim == 1 else allowed[start : start + len(part)])
        lists.append(rung.index.search(rung.model.query_vectors(part), K, excluded=excluded)[0])
    return np.concatenate(lists)


def overlap(lists: NDArray[np.int32], others: NDArray[np.int32]) -> float:
    """The mean share of each list of `others` that is in the list; 1 where there is nothing to share."""
    there = others >= 0
    shared = (others[:, :, None] == lists[:, None, :]).any(axis=2) & there
    counts = there.sum(axis=1)
    return float(np.where(counts > 0, shared.sum(axis=1) / np.maximum(counts, 1), 1.0).mean())


def _time(rungs: list[Served], queries: Queries) -> None:
    """An event arrives (the last one of the history once more) and the first K are asked for."""
    for number, query in enumerate(timed(queries)):
        excluded = excluded_mask(query, rungs[0].index.items, repeat=False)
        item = int(query.item[-1])
        time_us = None if query.time_us is None else int(query.time_us[-1])
        for rung in rungs:
            state = rung.model.start(query)
            began = time.process_time_ns()
            rung.model.advance(state, item, time_us)
            vector = rung.model.vector_from(state, query)
            stepped = time.process_time_ns()
            rung.index.search(vector, K, excluded=excluded)
            ended = time.process_time_ns()
            if number == 0:
                continue  # caches are cold
            rung.step.append(stepped - began)
            rung.scan.append(ended - stepped)
            rung.answer.append(ended - began)


def timed(queries: Queries) -> list[Queries]:
    """Single queries with a history, spread over all; the first one twice."""
    chosen = np.flatnonzero(np.diff(queries.offsets))
    chosen = chosen[:: max(1, len(chosen) // TIMED_USERS)][:TIMED_USERS]
    if not len(chosen):
        raise UsageError("nobody has a history to time an answer with")
    return [queries.part(q, q + 1) for q in (int(chosen[0]), *map(int, chosen))]


def micros(spent_ns: list[int], percentile: float = 50) -> float:
    return float(np.percentile(spent_ns, percentile)) / 1e3

"""What a model would answer after the events of its training data: the labels that a student learns from.

A question is a history up to an event; its labels are the N best items that may be shown (not those of the
history, unless things come again), with weights softmax(z / temperature) over the standardised scores z, so
that any model can be asked, whatever the scale of its scores. Without an order a history is a set, and its
one question is all of it.

Source: Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network"; the top N alone as in
Tang & Wang 2018, "Ranking distillation". Differs: z-scores in place of logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.config import Progress, silent
from slipstream.dataset.queries import Queries, excluded_mask
from slipstream.dataset.snapshot import Snapshot
from slipstream.inference.retriever import top_k
from slipstream.models.fusion_weights import standardised
from slipstream.models.recommender import Recommender
from slipstream.randomness import generator
from slipstream.training.packing import SoftLabels

CELLS = 4_000_000  # scores held at a time: 16 MB, and about six times that while they are sorted out


@dataclass(frozen=True)
class Asking:
    """How a teacher is asked. top: N. most: questions at most, a seeded sample of the events. share: see
    `SoftLabels`. timed: the teacher is told when the next event came, as it will be when it serves. repeat:
    items of the history may be the answer."""

    top: int
    most: int
    temperature: float
    share: float
    timed: bool = False
    repeat: bool = False


def soft_labels(
    teacher: Recommender, train: Snapshot, asking: Asking, seed: int, progress: Progress = silent
) -> SoftLabels:
    """The teacher's labels of the events of `train` that have a next one.

    Items without an event are left out: a student may have no vector for them. Cost: one scoring of every
    question; 8 N bytes each. An event whose question is not asked, or not answered, has no labels.
    """
    event = _asked(train, asking.most, seed)
    known = train.item_counts > 0
    row = np.full(train.event_count, -1, np.int32)
    item = np.zeros((len(event), asking.top), np.int32)
    weight = np.zeros(item.shape, np.float32)
    batch = max(1, min(512, CELLS // max(train.item_count, 1)))
    for start in range(0, len(event), batch):
        progress(start, len(event), "asking the teacher")
        part = slice(start, start + batch)
        queries = _histories_until(train, event[part], timed=asking.timed)
        scores = standardised(teacher.score(queries), queries)
        barred = excluded_mask(queries, scores.shape[1], repeat=asking.repeat) | ~known
        best, value = top_k(scores, asking.top, excluded=barred)
        item[part] = np.maximum(best, 0)
        weight[part] = _shares(value, asking.temperature)
    answered = weight.any(axis=1)
    for users_events, number in _learners(train, event[answered]):
        row[users_events] = np.flatnonzero(answered)[number]
    return SoftLabels(row, item, weight, asking.share)


def _asked(train: Snapshot, most: int, seed: int) -> NDArray[np.int64]:
    """The last event of each question, ascending."""
    last = train.offsets[1:][np.diff(train.offsets) > 1] - 1
    if train.ordered:
        has_next = np.ones(train.event_count, bool)
        has_next[train.offsets[1:][np.diff(train.offsets) > 0] - 1] = False
        last = np.flatnonzero(has_next)
    if len(last) <= most:
        return np.asarray(last, np.int64)
    chosen = generator(seed, "questions").choice(len(last), most, replace=False)
    return np.asarray(last[np.sort(chosen)], np.int64)


def _learners(
    train: Snapshot, event: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(events, their questions by place in `event`): an event its own, or all those of a set theirs."""
    number = np.arange(len(event))
    if train.ordered:
        yield event, number
        return
    user = np.searchsorted(train.offsets, event, side="right") - 1
    length = np.diff(train.offsets)[user]
    start = np.repeat(train.offsets[user] - (np.cumsum(length) - length), length)
    yield start + np.arange(length.sum()), np.repeat(number, length)


def _histories_until(train: Snapshot, event: NDArray[np.int64], *, timed: bool) -> Queries:
    """A query for each event: its user's events up to it."""
    user = np.searchsorted(train.offsets, event, side="right") - 1
    length = event + 1 - train.offsets[user]
    offsets = np.zeros(len(event) + 1, np.int64)
    np.cumsum(length, out=offsets[1:])
    index = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - train.offsets[user], length)
    clock = train.time_us
    now = clock is not None and timed and train.ordered
    return Queries(
        user=user.astype(np.int32),
        offsets=offsets,
        item=np.asarray(train.item[index]),
        time_us=None if clock is None else np.asarray(clock[index]),
        now_us=np.asarray(clock[event + 1]) if clock is not None and now else None,
    )


def _shares(value: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """softmax(value / temperature) per row; rows of -inf become 0."""
    top = value.max(axis=1, keepdims=True)
    raised = np.exp((value - np.where(np.isfinite(top), top, 0)) / temperature)
    total = raised.sum(axis=1, keepdims=True)
    return np.asarray(raised / np.where(total > 0, total, 1), np.float32)

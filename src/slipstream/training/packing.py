"""Histories as one stream of tokens without padding.

Each epoch cuts the histories into windows, shuffles them, lays them end to end and cuts the stream into
chunks of equal size. A token may look back to the start of its own window only (block-diagonal), so no slot
is spent on padding; only the last chunk of an epoch has a tail of empty slots. This room knows integer
arrays; what an item or a user is, it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

GAP_BINS = 24


def gap_bins(time_us: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The bin of the time from the event before, [E]: 0 first of its history, 1 a tie, then log2 of seconds.

    Bin 2 + n holds gaps of 2**n to 2**(n+1) seconds (bin 2 also those below one second); the last bin holds
    everything from 24 days up. An event that goes back in time counts as a tie.
    """
    gap = np.zeros(len(time_us), np.int64)
    gap[1:] = np.maximum(np.diff(time_us), 0)
    seconds = np.maximum(gap // 1_000_000, 1)
    bins: NDArray[np.uint8] = np.minimum(1 + np.frexp(seconds.astype(np.float64))[1], GAP_BINS - 1).astype(
        np.uint8
    )
    bins[gap == 0] = 1
    starts = offsets[:-1]
    bins[starts[np.diff(offsets) > 0]] = 0
    return bins


@dataclass(frozen=True)
class SoftLabels:
    """What somebody else answers after some events, to learn beside what came next.

    Event e has the items and weights of row `row[e]`, -1 for none; a row of weights sums to 1, and an item of
    weight 0 is padding. share: how much of a token's answer these are, the next items being the rest.
    """

    row: NDArray[np.int32]  # [E]
    item: NDArray[np.int32]  # [M, N]
    weight: NDArray[np.float32]  # [M, N]
    share: float


@dataclass(frozen=True)
class Histories:
    """`item[offsets[u]:offsets[u+1]]`, oldest first; `gap` beside it or None where there is no clock."""

    offsets: NDArray[np.int64]  # [U + 1]
    item: NDArray[np.int32]  # [E]
    gap: NDArray[np.uint8] | None = None  # [E]
    labels: SoftLabels | None = None


@dataclass(frozen=True)
class PackingPlan:
    """window: most events of one window. last: only so many latest events of a history (0: all).

    chunk: tokens of one chunk, a multiple of the attention block. targets: how many next items are the
    answer, each worth half of the one before. ordered: False shuffles each history anew every epoch.
    deletion: the share of events that a history loses at random, anew every epoch.
    """

    window: int
    chunk: int
    last: int = 0
    targets: int = 1
    target_decay: float = 0.5
    ordered: bool = True
    deletion: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """L token slots. `weight` rows sum to 1 for real tokens and to 0 for empty slots.

    T: the next items that are targets, and after them the N of the soft labels where there are some.
    """

    item: NDArray[np.int32]  # [L]
    gap: NDArray[np.uint8] | None  # [L]
    next_gap: NDArray[np.uint8] | None  # [L] the gap that the next event will have
    first: NDArray[np.int32]  # [L] the slot where the window of each token begins
    target: NDArray[np.int32]  # [L, T]
    weight: NDArray[np.float32]  # [L, T]
    tokens: int  # real ones
    user: NDArray[np.int64]  # [tokens] whose history each real token is of


def chunks(histories: Histories, plan: PackingPlan, random: np.random.Generator) -> Iterator[Chunk]:
    """The chunks of one epoch, in random order of windows. O(E) memory."""
    histories = _augmented(histories, plan, random)
    start, length = _windows(histories.offsets, plan, random)
    order = random.permutation(len(start))
    start, length = start[order], length[order]
    stream_end = np.cumsum(length)
    stream_start = stream_end - length
    total = int(stream_end[-1]) if len(stream_end) else 0
    position = np.arange(total) - np.repeat(stream_start - start, length)  # event number of each stream slot
    begin = np.repeat(stream_start, length)
    history_end = np.repeat(_history_end(histories.offsets)[start] if total else start, length)
    for at in range(0, total, plan.chunk):
        part = slice(at, min(at + plan.chunk, total))
        yield _chunk(histories, plan, position[part], np.maximum(begin[part] - at, 0), history_end[part])


def _history_end(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(offsets[1:], np.diff(offsets))


def _augmented(histories: Histories, plan: PackingPlan, random: np.random.Generator) -> Histories:
    if not plan.ordered:
        owner = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
        shuffled = np.lexsort((random.random(len(owner)), owner))
        return replace(_picked(histories, shuffled), gap=None)
    if plan.deletion == 0:
        return histories
    keep = random.random(len(histories.item)) >= plan.deletion
    counted = np.concatenate([[0], np.cumsum(keep)])
    return replace(_picked(histories, keep), offsets=counted[histories.offsets])


def _picked(histories: Histories, events: NDArray[np.generic]) -> Histories:
    """The columns of some events; the offsets stay as they are."""
    labels = histories.labels
    return Histories(
        histories.offsets,
        histories.item[events],
        None if histories.gap is None else histories.gap[events],
        None if labels is None else replace(labels, row=labels.row[events]),
    )


def _windows(
    offsets: NDArray[np.int64], plan: PackingPlan, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and lengths of the windows. The last event of a history is only a target, never an input.

    A long history is cut at a random phase, so that over the epochs every event meets every context length.
    """
    inputs = np.maximum(np.diff(offsets) - 1, 0)
    begin = offsets[:-1].copy()
    if plan.last:
        begin += np.maximum(inputs - plan.last, 0)
        inputs = np.minimum(inputs, plan.last)
    long = inputs > plan.window
    head = np.where(long, random.integers(1, plan.window + 1, len(inputs)), inputs)
    rest = inputs - head
    pieces = -(-rest // plan.window)
    owner = np.repeat(np.arange(len(inputs)), pieces)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = np.concatenate([begin, begin[owner] + head[owner] + number * plan.window])
    length = np.concatenate([head, np.minimum(plan.window, rest[owner] - number * plan.window)])
    return start[length > 0], length[length > 0]


def _chunk(
    histories: Histories,
    plan: PackingPlan,
    position: NDArray[np.int64],
    first: NDArray[np.int64],
    history_end: NDArray[np.int64],
) -> Chunk:
    real, size = len(position), plan.chunk
    item = np.zeros(size, np.int32)
    item[:real] = histories.item[position]
    gap = next_gap = None
    if histories.gap is not None:
        gap, next_gap = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        gap[:real] = histories.gap[position]
        next_gap[:real] = histories.gap[position + 1]  # an input is never the last of its history
    begin = np.arange(size, dtype=np.int32)  # an empty slot sees itself only
    begin[:real] = first
    target = np.zeros((size, plan.targets), np.int32)
    weight = np.zeros((size, plan.targets), np.float32)
    for step in range(plan.targets):
        ahead = position + 1 + step
        there = ahead < history_end
        target[:real, step] = np.where(there, histories.item[np.where(there, ahead, 0)], 0)
        weight[:real, step] = np.where(there, plan.target_decay**step, 0.0)
    weight[:real] /= weight[:real].sum(axis=1, keepdims=True)
    user = np.searchsorted(histories.offsets, position, side="right") - 1
    if histories.labels is not None:
        target, weight = _with_labels(target, weight, histories.labels, position)
    return Chunk(item, gap, next_gap, begin, target, weight, real, user)


def _with_labels(
    target: NDArray[np.int32],
    weight: NDArray[np.float32],
    labels: SoftLabels,
    position: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Targets and weights [L, T + N]: the next items give `share` of their weight to the labels."""
    row = labels.row[position]
    there = np.flatnonzero(row >= 0)
    items = np.zeros((len(target), labels.item.shape[1]), np.int32)
    weights = np.zeros(items.shape, np.float32)
    items[there] = labels.item[row[there]]
    weights[there] = labels.weight[row[there]] * np.float32(labels.share)
    weight[there] *= np.float32(1 - labels.share)
    return np.concatenate([target, items], axis=1), np.concatenate([weight, weights], axis=1)

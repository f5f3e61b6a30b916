"""The causal transformer in numpy: whole histories in a batch, or one event at a time, without torch.

Both ways give the same vector: attention is banded (width W in every layer), positions are ages and do not
move, the time gap of an event looks back only, and every norm is local to its event. So the state of a user
is a ring of W keys and values per layer, and appending an event costs the same however long the history.
The last vector depends on the last `receptive_field` = layers · (W - 1) + 1 events and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import CorruptArtifact
from slipstream.inference.blocks import Block, Floats, HstuBlock, Ring, TransformerBlock, norm, silu, unit
from slipstream.inference.item_rows import ItemRows
from slipstream.inference.resting import RowsAtRest, StateAtRest

TOKENS = 8192  # tokens of one batch of whole histories: its working memory stays within tens of MB


def gap_bin(gap_us: int | None, bins: int) -> int:
    """The bin of the time from the event before: 0 none before, 1 a tie, then log2 of seconds."""
    if gap_us is None:
        return 0
    if gap_us <= 0:
        return 1
    return min(1 + max(gap_us // 1_000_000, 1).bit_length(), bins - 1)


def gap_bins(gap_us: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
    """`gap_bin` of many gaps, none of which is missing."""
    seconds = np.maximum(gap_us // 1_000_000, 1).astype(np.float64)
    found: NDArray[np.int64] = np.minimum(1 + np.frexp(seconds)[1], bins - 1).astype(np.int64)
    found[gap_us <= 0] = 1
    return found


def gap_bins_of(time_us: NDArray[np.int64], offsets: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
    """`gap_bin` of every event of many histories, [H]."""
    found = np.zeros(len(time_us), np.int64)
    found[1:] = gap_bins(np.diff(time_us), bins)
    found[offsets[:-1][np.diff(offsets) > 0]] = 0
    return found


@dataclass
class EncoderState:
    """One user's state: rings of keys and values [layers, W, D], slot = number of the event modulo W."""

    keys: Floats
    values: Floats
    count: int = 0
    last_us: int | None = None
    vector: Floats | None = None  # [D] of the latest event; None before the first

    @property
    def nbytes(self) -> int:
        return int(self.keys.nbytes + self.values.nbytes)

    @classmethod
    def blank(cls, size: tuple[int, ...], dtype: Any) -> Self:
        """A state without a past; size: layers, W, D."""
        return cls(np.zeros(size, dtype), np.zeros(size, dtype))

    def at_rest(self) -> StateAtRest:
        """The same in a quarter of the bytes, to be woken; rounded, see `resting`."""
        keys, values = RowsAtRest.of(self.keys), RowsAtRest.of(self.values)
        latest = self.count, self.last_us, self.vector
        return StateAtRest(keys, values, *latest, self.keys.shape, self.keys.dtype, type(self))

    def copy(self) -> EncoderState:
        return EncoderState(self.keys.copy(), self.values.copy(), self.count, self.last_us, self.vector)


class Encoder:
    """Weights by name as `TransformerNetwork.weights` gives them, in any float type; sums use that type.

    The item table may be packed (`ItemRows`): rows are unpacked as they are looked up.
    """

    def __init__(self, weights: Mapping[str, Any], *, ffn: str = "silu", cosine: bool = False) -> None:
        self.weights = dict(weights)
        try:
            self.item: Floats | ItemRows = weights["item"]
            self.gap: Floats | None = weights.get("gap")
            self._input_norm = (weights["input_norm_weight"], weights["input_norm_bias"])
            self._final_norm = (weights["final_norm_weight"], weights["final_norm_bias"])
            head = ("in_weight", "in_bias", "out_weight")
            self._request = [weights[f"request.{n}"] for n in head] if "request.in_bias" in weights else None
            self._request_time = weights.get("request.time")
            count = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layer."))
            self._blocks = [_block(weights, f"layer.{n}.", ffn) for n in range(count)]
        except (KeyError, ValueError) as error:
            raise CorruptArtifact(f"encoder weights are incomplete: {error}") from error
        self.cosine = cosine
        self.dim = int(self.item.shape[1])
        self.heads, self.window = self._blocks[0].heads, self._blocks[0].window
        self.ffn = ffn

    @property
    def layers(self) -> int:
        return len(self._blocks)

    @property
    def kernel_bytes(self) -> int:
        """Of weights that a kernel keeps in its own order, beside `weights`."""
        return 0

    @property
    def receptive_field(self) -> int:
        """Events that the latest vector depends on."""
        return self.layers * (self.window - 1) + 1

    # -- whole histories ---------------------------------------------------------------------------------

    def encode(
        self, offsets: NDArray[np.int64], item: NDArray[np.int32], time_us: NDArray[np.int64] | None
    ) -> Floats:
        """The vector of the latest event of each history, [Q, D]; rows of empty histories are zero.

        Histories are cut to the receptive field and go through in batches of similar length; each layer
        computes only the positions that later layers will look at, the last layer a single one.
        """
        lengths = np.minimum(np.diff(offsets), self.receptive_field)
        gaps = self._gaps(offsets, time_us, len(item))
        vectors = np.zeros((len(lengths), self.dim), self.item.dtype)
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        while len(order):
            length = int(lengths[order[-1]])
            size = max(1, TOKENS // length)
            rows, order = order[-size:], order[:-size]
            vectors[rows] = self._batch(rows, length, lengths, offsets, item, gaps)
        return vectors

    def _gaps(
        self, offsets: NDArray[np.int64], time_us: NDArray[np.int64] | None, size: int
    ) -> NDArray[np.int64] | None:
        if self.gap is None:
            return None
        if time_us is None:
            return np.zeros(size, np.int64)
        return gap_bins_of(time_us, offsets, len(self.gap))

    def _batch(
        self,
        rows: NDArray[np.int64],
        length: int,
        lengths: NDArray[np.int64],
        offsets: NDArray[np.int64],
        item: NDArray[np.int32],
        gaps: NDArray[np.int64] | None,
    ) -> Floats:
        """Histories aligned at their ends; slots before a short one are `missing` and seen by nobody."""
        back = np.arange(length - 1, -1, -1)  # age of each column
        missing = back[None, :] >= lengths[rows][:, None]  # [B, L]
        index = np.where(missing, 0, offsets[rows + 1][:, None] - 1 - back[None, :])
        gap = None if gaps is None else gaps[index]
        x = self._input(item[index], gap)  # [B, L, D]
        blocked = missing if missing.any() else None
        for number, block in enumerate(self._blocks):
            need = self._needed(number, x.shape[1])
            x, _, _ = block.over(x, blocked, need)
            blocked = None if blocked is None else blocked[:, -need:]
        return self._output(x[:, -1])

    def _needed(self, number: int, length: int) -> int:
        """How many of the last positions after layer `number` the later layers look at: their band."""
        return min(length, (self.layers - 1 - number) * (self.window - 1) + 1)

    def _input(self, item: NDArray[np.int32], gap: NDArray[np.int64] | None) -> Floats:
        x = self.item[item]
        if self.gap is not None:
            x = x + self.gap[0 if gap is None else gap]
        return norm(x, *self._input_norm)

    def _output(self, x: Floats) -> Floats:
        return norm(x, *self._final_norm)

    def query(
        self, vectors: Floats, wait: NDArray[np.int64] | None = None, person: Floats | None = None
    ) -> Floats:
        """What item vectors are multiplied with, [Q, D], from vectors of `encode`, `prefill` or `advance`.

        wait [Q]: the `gap_bin` of the time from the latest event to the request; 0 or None: not known.
        person [Q or 1, 2 D]: the users' features times `request.person`; 0 or None: not known. Only the
        request head looks at them, so the state of a user is the same whenever the request comes.
        """
        if self._request is not None:
            in_weight, in_bias, out_weight = self._request
            inner = vectors @ in_weight + in_bias
            if self._request_time is not None:
                inner += self._request_time[0 if wait is None else wait]
            if person is not None:
                inner += person
            vectors = vectors + silu(inner) @ out_weight
        return unit(vectors) if self.cosine else vectors

    # -- one event at a time -----------------------------------------------------------------------------

    def start(self) -> EncoderState:
        """The state of a user without a past. Size: 2 · layers · W · D numbers."""
        return EncoderState.blank((self.layers, self.window, self.dim), self.item.dtype)

    def prefill(self, item: NDArray[np.int32], time_us: NDArray[np.int64] | None = None) -> EncoderState:
        """The state after a whole history, by one pass over its last `receptive_field` events."""
        state = self.start()
        total = len(item)
        if total == 0:
            return state
        keep = min(total, self.receptive_field)
        gaps = self._gaps(np.array([0, total], np.int64), time_us, total)
        x = self._input(item[None, -keep:], None if gaps is None else gaps[None, -keep:])
        slots = np.arange(max(0, total - self.window), total) % self.window
        for number, block in enumerate(self._blocks):
            x, key, value = block.over(x, None, self._needed(number, x.shape[1]))
            state.keys[number, slots] = key[0, -len(slots) :]
            state.values[number, slots] = value[0, -len(slots) :]
        state.count = total
        state.last_us = None if time_us is None else int(time_us[-1])
        state.vector = self._output(x[0, -1])
        return state

    def advance(self, state: EncoderState, item: int, time_us: int | None = None) -> Floats:
        """Append one event to `state`, in place; the new vector [D]. Cost: layers · (12 D² + 2 W D)."""
        before = None if time_us is None or state.last_us is None else time_us - state.last_us
        gap = None if self.gap is None else np.array([gap_bin(before, len(self.gap))])
        x = self._input(np.array([item]), gap)
        state.vector = self._step(x, state.keys[None], state.values[None], state.count)[0]
        state.count += 1
        state.last_us = time_us if time_us is not None else state.last_us
        return state.vector

    def leave_out(self, item: NDArray[np.int32], time_us: NDArray[np.int64] | None, latest: int) -> Floats:
        """[latest + 1, D]: the vector of a history, and without each of its `latest` events, oldest first.

        Exact. All variants share the state before the first of these events and then go on side by side, so
        the cost is one prefill and `latest` steps of at most `latest` states. An empty variant is zero.
        """
        first = len(item) - latest
        base = self.prefill(item[:first], None if time_us is None else time_us[:first])
        shape = (latest, *base.keys.shape)
        keys, values = np.empty(shape, base.keys.dtype), np.empty(shape, base.keys.dtype)
        vectors = np.zeros((latest + 1, self.dim), self.item.dtype)
        for n in range(latest):
            now = None if time_us is None else int(time_us[first + n])
            if n:  # the variants that have left one out; all hold one event less than the base
                x = self._input(np.full(n, item[first + n]), self._gaps_after(n, first, time_us))
                vectors[1 : n + 1] = self._step(x, keys[:n], values[:n], base.count - 1)
            keys[n], values[n] = base.keys, base.values
            vectors[n + 1] = 0 if base.vector is None else base.vector
            self.advance(base, int(item[first + n]), now)
        vectors[0] = base.vector
        return vectors

    def leave_out_of(
        self, state: EncoderState, item: NDArray[np.int32], time_us: NDArray[np.int64] | None, latest: int
    ) -> Floats:
        """`leave_out` of a history whose state is there. Here it is computed anew."""
        return self.leave_out(item, time_us, latest)

    def _gaps_after(self, n: int, first: int, time_us: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """Gap bins of event `first + n` for the variants without event first + 0 .. n - 1, [n]."""
        if self.gap is None:
            return None
        if time_us is None:
            return np.zeros(n, np.int64)
        bins = len(self.gap)
        found = np.full(n, gap_bin(int(time_us[first + n] - time_us[first + n - 1]), bins))
        earlier = first + n - 2  # what comes before for the variant that has just left its event out
        found[-1] = gap_bin(int(time_us[first + n] - time_us[earlier]) if earlier >= 0 else None, bins)
        return found

    def _step(self, x: Floats, keys: Floats, values: Floats, count: int) -> Floats:
        """One event for B states of `count` events each, in place: x [B, D], keys [B, layers, W, D]."""
        ring = Ring.after(count, self.window)
        for number, block in enumerate(self._blocks):
            x = block.step(x, keys[:, number], values[:, number], ring)
        return self._output(x)


def _block(weights: Mapping[str, Floats], prefix: str, ffn: str) -> Block:
    """The kind of block is read off the names of its weights."""
    if f"{prefix}qkvu_weight" in weights:
        return HstuBlock.of(weights, prefix)
    return TransformerBlock.of(weights, prefix, ffn)

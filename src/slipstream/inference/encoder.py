"""The causal transformer in numpy: whole histories in a batch, or one event at a time, without torch.

Both ways give the same vector: attention is banded (width W in every layer), positions are ages and do not
move, the time gap of an event looks back only, and every norm is local to its event. So the state of a user
is a ring of W keys and values per layer, and appending an event costs the same however long the history.
The last vector depends on the last `receptive_field` = layers · (W - 1) + 1 events and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import CorruptArtifact

Floats = NDArray[Any]

EPSILON = 1e-5  # of the layer norms, as in training
NEVER = -1e30
TOKENS = 8192  # tokens of one batch of whole histories: its working memory stays within tens of MB


def gap_bin(gap_us: int | None, bins: int) -> int:
    """The bin of the time from the event before: 0 none before, 1 a tie, then log2 of seconds."""
    if gap_us is None:
        return 0
    if gap_us <= 0:
        return 1
    return min(1 + max(gap_us // 1_000_000, 1).bit_length(), bins - 1)


def gap_bins_of(time_us: NDArray[np.int64], offsets: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
    """`gap_bin` of every event of many histories, [H]."""
    gap = np.zeros(len(time_us), np.int64)
    gap[1:] = np.maximum(np.diff(time_us), 0)
    seconds = np.maximum(gap // 1_000_000, 1).astype(np.float64)
    found: NDArray[np.int64] = np.minimum(1 + np.frexp(seconds)[1], bins - 1).astype(np.int64)
    found[gap == 0] = 1
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

    def copy(self) -> EncoderState:
        return EncoderState(self.keys.copy(), self.values.copy(), self.count, self.last_us, self.vector)


@dataclass(frozen=True)
class _Layer:
    norm1_weight: Floats
    norm1_bias: Floats
    qkv_weight: Floats
    qkv_bias: Floats
    relative_bias: Floats
    out_weight: Floats
    out_bias: Floats
    norm2_weight: Floats
    norm2_bias: Floats
    ffn_in_weight: Floats
    ffn_in_bias: Floats
    ffn_out_weight: Floats
    ffn_out_bias: Floats


class Encoder:
    """Weights by name as `TransformerNetwork.weights` gives them, in any float type; sums use that type."""

    def __init__(self, weights: Mapping[str, Floats], *, ffn: str = "silu", cosine: bool = False) -> None:
        self.weights = dict(weights)
        try:
            self.item = weights["item"]
            self.gap = weights.get("gap")
            self._input_norm = (weights["input_norm_weight"], weights["input_norm_bias"])
            self._final_norm = (weights["final_norm_weight"], weights["final_norm_bias"])
            head = ("time", "in_weight", "in_bias", "out_weight")
            self._request = [weights[f"request.{n}"] for n in head] if "request.time" in weights else None
            count = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layer."))
            fields = _Layer.__dataclass_fields__
            self._layers = [_Layer(**{f: weights[f"layer.{n}.{f}"] for f in fields}) for n in range(count)]
        except (KeyError, ValueError) as error:
            raise CorruptArtifact(f"encoder weights are incomplete: {error}") from error
        self.cosine = cosine
        self.dim = int(self.item.shape[1])
        self.heads, self.window = map(int, self._layers[0].relative_bias.shape)
        self._scale = (self.dim // self.heads) ** -0.5
        self.ffn = ffn

    @property
    def layers(self) -> int:
        return len(self._layers)

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
        for number, layer in enumerate(self._layers):
            need = self._needed(number, x.shape[1])
            x, _, _ = self._layer(layer, x, blocked, need)
            blocked = None if blocked is None else blocked[:, -need:]
        return self._output(x[:, -1])

    def _needed(self, number: int, length: int) -> int:
        """How many of the last positions after layer `number` the later layers look at: their band."""
        return min(length, (self.layers - 1 - number) * (self.window - 1) + 1)

    def _input(self, item: NDArray[np.int32], gap: NDArray[np.int64] | None) -> Floats:
        x = self.item[item]
        if self.gap is not None:
            x = x + self.gap[0 if gap is None else gap]
        return _norm(x, *self._input_norm)

    def _output(self, x: Floats) -> Floats:
        return _norm(x, *self._final_norm)

    def query(self, vectors: Floats, wait: NDArray[np.int64] | None = None) -> Floats:
        """What item vectors are multiplied with, [Q, D], from vectors of `encode`, `prefill` or `advance`.

        wait [Q]: the `gap_bin` of the time from the latest event to the request; 0 or None: not known. Only
        the request head looks at it, so the state of a user is the same whenever the request comes.
        """
        if self._request is not None:
            time, in_weight, in_bias, out_weight = self._request
            inner = vectors @ in_weight + in_bias + time[0 if wait is None else wait]
            vectors = vectors + _silu(inner) @ out_weight
        return _unit(vectors) if self.cosine else vectors

    def _layer(
        self, layer: _Layer, x: Floats, missing: NDArray[np.bool_] | None, need: int
    ) -> tuple[Floats, Floats, Floats]:
        """The last `need` positions after the layer [B, need, D], and all keys and values [B, L, D]."""
        length, dim = x.shape[1:]
        h = _norm(x, layer.norm1_weight, layer.norm1_bias)
        key_value = h @ layer.qkv_weight[:, dim:] + layer.qkv_bias[dim:]
        key, value = key_value[..., :dim], key_value[..., dim:]
        query = h[:, -need:] @ layer.qkv_weight[:, :dim] + layer.qkv_bias[:dim]
        mixed = np.empty_like(query)
        step = max(self.window, 32)
        for start in range(0, need, step):  # blocks of queries meet the keys of their band only
            stop = min(start + step, need)
            low = max(0, length - need + start - self.window + 1)
            high = length - need + stop
            part = None if missing is None else missing[:, low:high]
            mixed[:, start:stop] = self._attend(
                layer, query[:, start:stop], key[:, low:high], value[:, low:high], part
            )
        x = x[:, -need:] + mixed @ layer.out_weight + layer.out_bias
        return x + self._feed_forward(layer, x), key, value

    def _attend(
        self, layer: _Layer, query: Floats, key: Floats, value: Floats, missing: NDArray[np.bool_] | None
    ) -> Floats:
        """Queries [B, n, D] are the last n of the positions of key and value [B, m, D]."""
        batch, n, dim = query.shape
        m = key.shape[1]
        age = np.arange(m - n, m)[:, None] - np.arange(m)[None, :]  # [n, m]
        band = layer.relative_bias[:, np.clip(age, 0, self.window - 1)]
        band = np.where((age < 0) | (age >= self.window), query.dtype.type(NEVER), band)  # [H, n, m]
        logits = self._heads(query) @ self._heads(key).transpose(0, 1, 3, 2)
        logits *= self._scale
        logits += band
        if missing is not None:
            logits += np.where(missing, query.dtype.type(NEVER), query.dtype.type(0))[:, None, None, :]
        shares = _softmax_in_place(logits)
        return (shares @ self._heads(value)).transpose(0, 2, 1, 3).reshape(batch, n, dim)

    def _heads(self, x: Floats) -> Floats:
        batch, length, dim = x.shape
        return x.reshape(batch, length, self.heads, dim // self.heads).transpose(0, 2, 1, 3)

    def _feed_forward(self, layer: _Layer, x: Floats) -> Floats:
        h = _norm(x, layer.norm2_weight, layer.norm2_bias) @ layer.ffn_in_weight
        h += layer.ffn_in_bias
        if self.ffn == "swiglu":
            inner = h.shape[-1] // 2
            h = _silu(h[..., :inner]) * h[..., inner:]
        else:
            h = _silu(h) if self.ffn == "silu" else _gelu(h)
        return h @ layer.ffn_out_weight + layer.ffn_out_bias

    # -- one event at a time -----------------------------------------------------------------------------

    def start(self) -> EncoderState:
        """The state of a user without a past. Size: 2 · layers · W · D numbers."""
        shape = (self.layers, self.window, self.dim)
        return EncoderState(np.zeros(shape, self.item.dtype), np.zeros(shape, self.item.dtype))

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
        for number, layer in enumerate(self._layers):
            x, key, value = self._layer(layer, x, None, self._needed(number, x.shape[1]))
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
        slot, filled = count % self.window, min(count + 1, self.window)
        age = (slot - np.arange(self.window)) % self.window
        for number, layer in enumerate(self._layers):
            x = self._step_layer(layer, x, keys[:, number], values[:, number], slot, filled, age)
        return self._output(x)

    def _step_layer(
        self,
        layer: _Layer,
        x: Floats,
        keys: Floats,
        values: Floats,
        slot: int,
        filled: int,
        age: NDArray[np.intp],
    ) -> Floats:
        batch, dim = x.shape
        rings = (batch, self.window, self.heads, -1)
        h = _norm(x, layer.norm1_weight, layer.norm1_bias) @ layer.qkv_weight + layer.qkv_bias
        keys[:, slot], values[:, slot] = h[:, dim : 2 * dim], h[:, 2 * dim :]
        query = h[:, :dim].reshape(batch, self.heads, -1, 1) * self._scale
        logits = (keys.reshape(rings).transpose(0, 2, 1, 3) @ query)[..., 0]  # [B, H, W]
        logits += layer.relative_bias[:, age]
        logits[..., age >= filled] = NEVER
        shares = _softmax_in_place(logits)[:, :, None, :]
        mixed = shares @ values.reshape(rings).transpose(0, 2, 1, 3)  # [B, H, 1, D/H]
        x = x + mixed.reshape(batch, dim) @ layer.out_weight + layer.out_bias
        return x + self._feed_forward(layer, x)


def _norm(x: Floats, weight: Floats, bias: Floats) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    spread = np.einsum("...d,...d->...", centred, centred)[..., None] / x.shape[-1]
    centred /= np.sqrt(spread + EPSILON)
    centred *= weight
    centred += bias
    result: Floats = centred
    return result


def _unit(x: Floats) -> Floats:
    length = np.sqrt(np.einsum("...d,...d->...", x, x))[..., None]
    result: Floats = x / np.maximum(length, 1e-12)
    return result


def _softmax_in_place(logits: Floats) -> Floats:
    logits -= logits.max(-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(-1, keepdims=True)
    return logits


def _gelu(x: Floats) -> Floats:
    """The tanh form; training uses the same."""
    inner = x * x
    inner *= 0.044715 * 0.7978845608028654
    inner += 0.7978845608028654
    inner *= x
    np.tanh(inner, out=inner)
    inner += 1
    inner *= x
    inner *= 0.5
    return inner


def _silu(x: Floats) -> Floats:
    """x / (1 + exp(-x)). For very negative x the exponential overflows, and the answer is the right 0."""
    with np.errstate(over="ignore"):
        below = np.exp(-x)
    below += 1
    result: Floats = np.divide(x, below, out=below)
    return result

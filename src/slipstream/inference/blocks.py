"""The layers of the encoder in numpy: over the positions of many histories, or one event at a time.

A block keeps the keys and values of the last W events and nothing else, so both ways give the same vector.
`training/transformer_network.py` holds the same layers in torch; a gate stands where its weights are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]

EPSILON = 1e-5  # of the layer norms, as in training
NEVER = -1e30


@dataclass(frozen=True)
class Ring:
    """Where an event goes in rings of W slots: its slot, the slots then filled, and their ages [W]."""

    slot: int
    filled: int
    age: NDArray[np.intp]

    @classmethod
    def after(cls, count: int, window: int) -> Self:
        """For the event that follows `count` events."""
        slot = count % window
        return cls(slot, min(count + 1, window), (slot - np.arange(window)) % window)


class Block:
    """What the layers share: causal attention inside a band of W events with a bias by age."""

    relative_bias: Floats  # [H, W]

    @property
    def heads(self) -> int:
        return int(self.relative_bias.shape[0])

    @property
    def window(self) -> int:
        return int(self.relative_bias.shape[1])

    def over(self, x: Floats, missing: NDArray[np.bool_] | None, need: int) -> tuple[Floats, Floats, Floats]:
        """The last `need` positions after the block [B, need, D], and all keys and values [B, L, D]."""
        raise NotImplementedError

    def step(self, x: Floats, keys: Floats, values: Floats, ring: Ring) -> Floats:
        """One event for B states, [B, D]; its key and value go into the rings [B, W, D], in place."""
        raise NotImplementedError

    def _scale(self, dim: int) -> float:
        """Of the products of queries and keys."""
        raise NotImplementedError

    def _weigh(self, logits: Floats) -> Floats:
        """Shares over the last axis from logits; NEVER is not seen. May write into the logits."""
        raise NotImplementedError

    def _look_back(self, query: Floats, keys: Floats, values: Floats, ring: Ring) -> Floats:
        """[B, D]: one query per state [B, D] over the rings."""
        batch, dim = query.shape
        rings = (batch, self.window, self.heads, -1)
        query = query.reshape(batch, self.heads, -1, 1) * self._scale(dim)
        logits = (keys.reshape(rings).transpose(0, 2, 1, 3) @ query)[..., 0]  # [B, H, W]
        logits += self.relative_bias[:, ring.age]
        logits[..., ring.age >= ring.filled] = NEVER
        shares = self._weigh(logits)[:, :, None, :]
        mixed: Floats = shares @ values.reshape(rings).transpose(0, 2, 1, 3)  # [B, H, 1, D/H]
        return mixed.reshape(batch, dim)

    def _banded(self, query: Floats, key: Floats, value: Floats, missing: NDArray[np.bool_] | None) -> Floats:
        """Blocks of queries meet the keys of their band only. Queries are the last of the L positions."""
        need, length = query.shape[1], key.shape[1]
        mixed = np.empty_like(query)
        step = max(self.window, 32)
        for start in range(0, need, step):
            stop = min(start + step, need)
            low = max(0, length - need + start - self.window + 1)
            high = length - need + stop
            part = None if missing is None else missing[:, low:high]
            mixed[:, start:stop] = self._attend(
                query[:, start:stop], key[:, low:high], value[:, low:high], part
            )
        return mixed

    def _attend(self, query: Floats, key: Floats, value: Floats, missing: NDArray[np.bool_] | None) -> Floats:
        """Queries [B, n, D] are the last n of the positions of key and value [B, m, D]."""
        batch, n, dim = query.shape
        m = key.shape[1]
        age = np.arange(m - n, m)[:, None] - np.arange(m)[None, :]  # [n, m]
        band = self.relative_bias[:, np.clip(age, 0, self.window - 1)]
        band = np.where((age < 0) | (age >= self.window), query.dtype.type(NEVER), band)  # [H, n, m]
        logits = self._by_head(query) @ self._by_head(key).transpose(0, 1, 3, 2)
        logits *= self._scale(dim)
        logits += band
        if missing is not None:
            logits += np.where(missing, query.dtype.type(NEVER), query.dtype.type(0))[:, None, None, :]
        shares = self._weigh(logits)
        return (shares @ self._by_head(value)).transpose(0, 2, 1, 3).reshape(batch, n, dim)

    def _by_head(self, x: Floats) -> Floats:
        batch, length, dim = x.shape
        return x.reshape(batch, length, self.heads, dim // self.heads).transpose(0, 2, 1, 3)


@dataclass(frozen=True)
class TransformerBlock(Block):
    """x + attention(norm(x)), then x + ffn(norm(x)); with gates, each branch times sigmoid(gate(x))."""

    norm1_weight: Floats
    norm1_bias: Floats
    qkv_weight: Floats
    qkv_bias: Floats
    relative_bias: Floats  # [H, W]
    out_weight: Floats
    out_bias: Floats
    norm2_weight: Floats
    norm2_bias: Floats
    ffn_in_weight: Floats
    ffn_in_bias: Floats
    ffn_out_weight: Floats
    ffn_out_bias: Floats
    gate1_weight: Floats | None = None
    gate1_bias: Floats | None = None
    gate2_weight: Floats | None = None
    gate2_bias: Floats | None = None
    ffn: str = "silu"

    @classmethod
    def of(cls, weights: Mapping[str, Floats], prefix: str, ffn: str) -> Self:
        """The block whose weights are named `prefix` + field. Raises KeyError for a missing one."""
        gated = f"{prefix}gate1_weight" in weights
        names = [f.name for f in fields(cls) if f.default is MISSING or (gated and f.name != "ffn")]
        return cls(**{name: weights[prefix + name] for name in names}, ffn=ffn)

    def over(self, x: Floats, missing: NDArray[np.bool_] | None, need: int) -> tuple[Floats, Floats, Floats]:
        dim = x.shape[-1]
        h = norm(x, self.norm1_weight, self.norm1_bias)
        key_value = h @ self.qkv_weight[:, dim:] + self.qkv_bias[dim:]
        key, value = key_value[..., :dim], key_value[..., dim:]
        query = h[:, -need:] @ self.qkv_weight[:, :dim] + self.qkv_bias[:dim]
        mixed = self._banded(query, key, value, missing)
        return self._after(x[:, -need:], mixed), key, value

    def step(self, x: Floats, keys: Floats, values: Floats, ring: Ring) -> Floats:
        dim = x.shape[-1]
        h = norm(x, self.norm1_weight, self.norm1_bias) @ self.qkv_weight + self.qkv_bias
        keys[:, ring.slot], values[:, ring.slot] = h[:, dim : 2 * dim], h[:, 2 * dim :]
        return self._after(x, self._look_back(h[:, :dim], keys, values, ring))

    def _scale(self, dim: int) -> float:
        return float((dim // self.heads) ** -0.5)

    def _weigh(self, logits: Floats) -> Floats:
        return softmax_in_place(logits)

    def _after(self, x: Floats, mixed: Floats) -> Floats:
        """What follows the attention, position by position."""
        if self.gate1_weight is None:
            x = x + mixed @ self.out_weight + self.out_bias
            return x + self._feed_forward(x)
        x = x + sigmoid(x @ self.gate1_weight + self.gate1_bias) * (mixed @ self.out_weight + self.out_bias)
        x = x + sigmoid(x @ self.gate2_weight + self.gate2_bias) * self._feed_forward(x)
        return x

    def _feed_forward(self, x: Floats) -> Floats:
        h = norm(x, self.norm2_weight, self.norm2_bias) @ self.ffn_in_weight
        h += self.ffn_in_bias
        if self.ffn == "swiglu":
            inner = h.shape[-1] // 2
            h = silu(h[..., :inner]) * h[..., inner:]
        else:
            h = silu(h) if self.ffn == "silu" else gelu(h)
        return h @ self.ffn_out_weight + self.ffn_out_bias


@dataclass(frozen=True)
class HstuBlock(Block):
    """x + out(norm(attention(q, k, v)) · u), q, k, v, u = silu(x W + b); shares are silu(q · k) / visible."""

    norm1_weight: Floats
    norm1_bias: Floats
    qkvu_weight: Floats
    qkvu_bias: Floats
    relative_bias: Floats
    norm2_weight: Floats
    norm2_bias: Floats
    out_weight: Floats
    out_bias: Floats
    gate1_weight: Floats | None = None
    gate1_bias: Floats | None = None

    @classmethod
    def of(cls, weights: Mapping[str, Floats], prefix: str) -> Self:
        """The block whose weights are named `prefix` + field. Raises KeyError for a missing one."""
        gated = f"{prefix}gate1_weight" in weights
        names = [f.name for f in fields(cls) if f.default is MISSING or gated]
        return cls(**{name: weights[prefix + name] for name in names})

    def over(self, x: Floats, missing: NDArray[np.bool_] | None, need: int) -> tuple[Floats, Floats, Floats]:
        dim = x.shape[-1]
        h = norm(x, self.norm1_weight, self.norm1_bias)
        key_value = silu(h @ self.qkvu_weight[:, dim : 3 * dim] + self.qkvu_bias[dim : 3 * dim])
        key, value = key_value[..., :dim], key_value[..., dim:]
        h = h[:, -need:]
        query = silu(h @ self.qkvu_weight[:, :dim] + self.qkvu_bias[:dim])
        u = silu(h @ self.qkvu_weight[:, 3 * dim :] + self.qkvu_bias[3 * dim :])
        return self._after(x[:, -need:], self._banded(query, key, value, missing), u), key, value

    def step(self, x: Floats, keys: Floats, values: Floats, ring: Ring) -> Floats:
        dim = x.shape[-1]
        h = silu(norm(x, self.norm1_weight, self.norm1_bias) @ self.qkvu_weight + self.qkvu_bias)
        keys[:, ring.slot], values[:, ring.slot] = h[:, dim : 2 * dim], h[:, 2 * dim : 3 * dim]
        return self._after(x, self._look_back(h[:, :dim], keys, values, ring), h[:, 3 * dim :])

    def _scale(self, dim: int) -> float:
        return 1.0

    def _weigh(self, logits: Floats) -> Floats:
        visible = np.count_nonzero(logits > NEVER / 2, axis=-1, keepdims=True)
        shares = silu(logits)  # of NEVER: 0
        shares /= np.maximum(visible, 1)  # a slot before the history sees nothing
        return shares

    def _after(self, x: Floats, mixed: Floats, u: Floats) -> Floats:
        inner = norm(mixed, self.norm2_weight, self.norm2_bias) * u
        branch: Floats = inner @ self.out_weight + self.out_bias
        if self.gate1_weight is not None:
            branch *= sigmoid(x @ self.gate1_weight + self.gate1_bias)
        branch += x
        return branch


def norm(x: Floats, weight: Floats, bias: Floats) -> Floats:
    centred = x - x.mean(-1, keepdims=True)
    spread = np.einsum("...d,...d->...", centred, centred)[..., None] / x.shape[-1]
    centred /= np.sqrt(spread + EPSILON)
    centred *= weight
    centred += bias
    result: Floats = centred
    return result


def unit(x: Floats) -> Floats:
    length = np.sqrt(np.einsum("...d,...d->...", x, x))[..., None]
    result: Floats = x / np.maximum(length, 1e-12)
    return result


def softmax_in_place(logits: Floats) -> Floats:
    logits -= logits.max(-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(-1, keepdims=True)
    return logits


def gelu(x: Floats) -> Floats:
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


def silu(x: Floats) -> Floats:
    """x / (1 + exp(-x)). For very negative x the exponential overflows, and the answer is the right 0."""
    with np.errstate(over="ignore"):
        below = np.exp(-x)
    below += 1
    result: Floats = np.divide(x, below, out=below)
    return result


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)); an overflow of the exponential gives the right 0."""
    with np.errstate(over="ignore"):
        below = np.exp(-x)
    below += 1
    result: Floats = np.divide(1, below, out=below)
    return result

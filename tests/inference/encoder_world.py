"""Encoders of any shape with random weights, and the life of a user's state: what must always hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slipstream.inference.encoder import Encoder, EncoderState


@dataclass(frozen=True)
class Shape:
    dim: int = 16
    heads: int = 2
    layers: int = 2
    window: int = 5
    inner: int = 24
    ffn: str = "silu"
    gated: bool = False
    bins: int = 24  # 0: no clock
    items: int = 120


def random_weights(shape: Shape, seed: int = 0, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def normal(*size: int, mean: float = 0.0) -> np.ndarray:
        spread = size[0] ** -0.5 if len(size) == 2 else 0.3
        return (mean + spread * random.standard_normal(size)).astype(dtype)

    dim, inner = shape.dim, shape.inner
    wide = 2 * inner if shape.ffn == "swiglu" else inner
    found = {"item": normal(shape.items, dim) * 10}
    if shape.bins:
        found["gap"] = normal(shape.bins, dim)
    for name in ("input_norm", "final_norm"):
        found[f"{name}_weight"], found[f"{name}_bias"] = normal(dim, mean=1.0), normal(dim)
    for n in range(shape.layers):
        layer = {
            "norm1_weight": normal(dim, mean=1.0), "norm1_bias": normal(dim),
            "qkv_weight": normal(dim, 3 * dim), "qkv_bias": normal(3 * dim),
            "relative_bias": normal(shape.heads, shape.window),
            "out_weight": normal(dim, dim), "out_bias": normal(dim),
            "norm2_weight": normal(dim, mean=1.0), "norm2_bias": normal(dim),
            "ffn_in_weight": normal(dim, wide), "ffn_in_bias": normal(wide),
            "ffn_out_weight": normal(inner, dim), "ffn_out_bias": normal(dim),
        }  # fmt: skip
        if shape.gated:
            layer |= {"gate1_weight": normal(dim, dim), "gate1_bias": normal(dim)}
            layer |= {"gate2_weight": normal(dim, dim), "gate2_bias": normal(dim)}
        found |= {f"layer.{n}.{name}": value for name, value in layer.items()}
    return found


GAPS = (0, 0, 1, 10**6, 10**8, 10**10, 10**13)


@dataclass
class Life:
    """One user's events and the state that follows them."""

    encoder: Encoder
    random: np.random.Generator
    items: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    state: EncoderState = None  # type: ignore[assignment] # set at once

    def __post_init__(self) -> None:
        self.state = self.encoder.start()

    def append(self) -> None:
        last = self.times[-1] if self.times else 10**15
        self._add(int(self.random.integers(len(self.encoder.item))), last + int(self.random.choice(GAPS)))

    def _add(self, item: int, time_us: int) -> None:
        self.items.append(item)
        self.times.append(time_us)
        self.encoder.advance(self.state, item, time_us)

    def append_several(self) -> None:
        for _ in range(self.random.integers(2, 2 * self.encoder.window)):
            self.append()

    def append_at_the_same_time(self) -> None:
        self._add(int(self.random.integers(len(self.encoder.item))), self.times[-1] if self.times else 10**15)

    def late_event(self) -> None:
        """It belongs before others: the state is read again."""
        place = int(self.random.integers(len(self.items) + 1))
        time_us = self.times[place] if place < len(self.times) else 2 * 10**15
        self.items.insert(place, int(self.random.integers(len(self.encoder.item))))
        self.times.insert(place, time_us)
        self.evict_and_reload()

    def delete(self) -> None:
        if self.items:
            place = int(self.random.integers(len(self.items)))
            del self.items[place], self.times[place]
            self.evict_and_reload()

    def evict_and_reload(self) -> None:
        self.state = self.encoder.prefill(*self.history())

    def copy_and_go_on(self) -> None:
        """What becomes of the old one does not matter to the copy."""
        old, self.state = self.state, self.state.copy()
        old.keys[:], old.values[:] = np.nan, np.nan

    def history(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.items, np.int32), np.array(self.times, np.int64)

    @classmethod
    def operations(cls) -> list[Callable[[Life], None]]:
        often = [cls.append, cls.append, cls.append_several, cls.append_at_the_same_time]
        return [*often, cls.late_event, cls.delete, cls.evict_and_reload, cls.copy_and_go_on]


def live(encoder: Encoder, oracle: Encoder, seed: int, tolerance: float, operations: int = 12) -> None:
    """A random life: after each event in it the state equals what a full recomputation by `oracle` gives."""
    random = np.random.default_rng(seed)
    life = Life(encoder, random)
    choices = Life.operations()
    for step in range(operations):
        operation = choices[random.integers(len(choices))]
        operation(life)
        _compare(life, oracle, tolerance, f"seed {seed}, step {step}: {operation.__name__}")


def _compare(life: Life, oracle: Encoder, tolerance: float, where: str) -> None:
    items, times = life.history()
    assert life.state.count == len(items), where
    if not len(items):
        return
    whole = oracle.encode(np.array([0, len(items)]), items, times)[0]
    assert life.state.vector is not None
    np.testing.assert_allclose(life.state.vector, whole, rtol=0, atol=tolerance, err_msg=where)
    _same_ranking(oracle.item @ whole, oracle.item @ life.state.vector, 10 * tolerance, where)


def _same_ranking(right: np.ndarray, ours: np.ndarray, close: float, where: str) -> None:
    """The best 100 in the same order, but for neighbours that are as close as the tolerance."""
    close *= float(np.abs(right).max())
    order = np.argsort(-ours, kind="stable")[:100]
    assert (np.diff(right[order]) <= close).all(), where
    left_out = np.delete(right, order)
    assert not len(left_out) or left_out.max() <= right[order[-1]] + close, where

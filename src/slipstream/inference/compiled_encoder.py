"""The encoder with its arithmetic in C: the same vectors, at a tenth of the cost of a step.

`encoder_of` gives it where `_encoder.c` was built and knows the body, else the NumPy encoder, which says what
is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from slipstream.inference.blocks import Floats, TransformerBlock
from slipstream.inference.encoder import Encoder, EncoderState, gap_bin
from slipstream.inference.item_rows import ItemRows
from slipstream.kernels import Kernel, kernel

ENCODER = "slipstream.inference._encoder"
PADDING = 16  # slots of a ring are a multiple of this
LATEST = 10  # events that can be left out of a state
FFN = ("silu", "gelu", "swiglu")


class RingState(EncoderState):
    """A state in the memory layout of `_encoder.c`; `keys` and `values` are views of it.

    ring [layers, 2, D · P], P = S rounded up to 16: of each layer the keys [D, P], then the values [P, D].
    S = W + LATEST - 1 slots: the ring still holds all that the latest events have seen (`leave_out_of`).
    left_out: what that has worked out; None before it was asked. It takes about as much memory as the ring.
    """

    def __init__(self, ring: Floats, slots: int, dim: int) -> None:
        layers, pitch = len(ring), ring.shape[2] // dim
        keys = ring[:, 0].reshape(layers, dim, pitch).transpose(0, 2, 1)[:, :slots]
        super().__init__(keys, ring[:, 1].reshape(layers, pitch, dim)[:, :slots])
        self.ring = ring
        self.before: Floats | None = None  # the vector before the latest event, where that was a step
        self.left_out: LeftOut | None = None

    @property
    def nbytes(self) -> int:
        return int(self.ring.nbytes) + (0 if self.left_out is None else self.left_out.own.nbytes)

    @classmethod
    def blank(cls, size: tuple[int, ...], dtype: Any) -> Self:
        """size: layers, S, D."""
        layers, slots, dim = size
        pitch = -(-slots // PADDING) * PADDING
        return cls(np.zeros((layers, 2, dim * pitch), dtype), slots, dim)

    def copy(self) -> RingState:
        twin = RingState(self.ring.copy(), self.keys.shape[1], self.keys.shape[2])
        twin.count, twin.last_us, twin.vector = self.count, self.last_us, self.vector
        return twin


@dataclass
class LeftOut:
    """A user without each of the latest events.

    own: keys and values of the events after the one that is not there, as `_encoder_loop.h` lays them out.
    """

    own: Floats
    vectors: Floats  # [latest, D]
    count: int = 0  # events of the state that they belong to; 0: nothing is there yet


class CompiledEncoder(Encoder):
    """See the module. Made by `encoder_of`.

    lean: the layers' matrices are kept as the kernel has them and not as NumPy's too.
    """

    def __init__(
        self, weights: Mapping[str, Any], *, ffn: str, cosine: bool, compiled: Kernel, lean: bool = False
    ) -> None:
        super().__init__(weights, ffn=ffn, cosine=cosine)
        self._plain = _transformer_blocks(self)
        first = self._plain[0]
        inner = int(first.ffn_out_weight.shape[0])
        self._module = compiled.module
        self._slots = self.window + LATEST - 1
        self._pitch = -(-self._slots // PADDING) * PADDING
        self._dtype = self.item.dtype
        packed: tuple[Any, ...] = ()
        if isinstance(self.item, ItemRows):
            number, codes, scale, factor = self.item.for_kernel()
            packed = (number, scale, factor)
        else:
            codes = self.item = np.ascontiguousarray(self.item)
        self.gap = None if self.gap is None else np.ascontiguousarray(self.gap)
        flat = self._flat()
        self._flat_bytes = flat.nbytes
        self._compiled = compiled.module.open(
            compiled.level, int(self._dtype == np.float64), self.layers, self.dim, self.heads, self.window,
            inner, FFN.index(ffn), int(first.gate1_weight is not None), flat, codes, self.gap,
            *packed,
        )  # fmt: skip
        self._layers = self.layers
        if lean:
            del self._blocks, self._plain
            self.weights = {n: w for n, w in self.weights.items() if not n.startswith("layer.")}

    @property
    def layers(self) -> int:
        return getattr(self, "_layers", 0) or len(self._blocks)

    @property
    def kernel_bytes(self) -> int:
        return self._flat_bytes

    def _flat(self) -> Floats:
        """All weights but the tables, one after another in the order that `_encoder_loop.h` reads."""
        parts = [*self._input_norm, *self._final_norm]
        for block in self._plain:
            values = (getattr(block, f.name) for f in fields(block) if f.name != "ffn")
            parts += [value for value in values if value is not None]
        return np.concatenate([np.ravel(part) for part in parts]).astype(self._dtype, copy=False)

    def encode(
        self, offsets: NDArray[np.int64], item: NDArray[np.int32], time_us: NDArray[np.int64] | None
    ) -> Floats:
        vectors = np.zeros((len(offsets) - 1, self.dim), self._dtype)
        self._encode(offsets, item, time_us, None, vectors)
        return vectors

    def _encode(
        self,
        offsets: NDArray[np.int64],
        item: NDArray[np.int32],
        time_us: NDArray[np.int64] | None,
        ring: Floats | None,
        out: Floats,
    ) -> None:
        gaps = self._gaps(offsets, time_us, len(item))
        self._module.encode(
            self._compiled,
            len(offsets) - 1,
            np.ascontiguousarray(offsets, np.int64),
            len(item),
            np.ascontiguousarray(item, np.int32),
            np.zeros(len(item), np.int64) if gaps is None else np.ascontiguousarray(gaps, np.int64),
            ring,
            out,
        )

    def start(self) -> RingState:
        return RingState.blank((self.layers, self._slots, self.dim), self._dtype)

    def _rings(self, states: int) -> Floats:
        return np.zeros((states, self.layers, 2, self.dim * self._pitch), self._dtype)

    def prefill(self, item: NDArray[np.int32], time_us: NDArray[np.int64] | None = None) -> RingState:
        state = self.start()
        total = len(item)
        if total:
            state.vector = np.empty(self.dim, self._dtype)
            self._encode(np.array([0, total], np.int64), item, time_us, state.ring, state.vector)
            state.count = total
            state.last_us = None if time_us is None else int(time_us[-1])
        return state

    def advance(self, state: EncoderState, item: int, time_us: int | None = None) -> Floats:
        if not isinstance(state, RingState):
            return super().advance(state, item, time_us)
        bins = 0
        if self.gap is not None:
            before = None if time_us is None or state.last_us is None else time_us - state.last_us
            bins = gap_bin(before, len(self.gap))
        vector = np.empty(self.dim, self._dtype)
        self._module.step(
            self._compiled, 1, state.ring, state.count, np.array(item, np.int32), np.array(bins), vector
        )
        state.before, state.vector = state.vector, vector
        state.count += 1
        state.last_us = time_us if time_us is not None else state.last_us
        return vector

    def leave_out(self, item: NDArray[np.int32], time_us: NDArray[np.int64] | None, latest: int) -> Floats:
        first = len(item) - latest
        base = self.prefill(item[:first], None if time_us is None else time_us[:first])
        rings = self._rings(latest)
        vectors = np.zeros((latest + 1, self.dim), self._dtype)
        for n in range(latest):
            if n:  # the variants that have left one out; all hold one event less than the base
                gaps = self._gaps_after(n, first, time_us)
                self._module.step(
                    self._compiled, n, rings[:n], base.count - 1, np.full(n, item[first + n], np.int32),
                    np.zeros(n, np.int64) if gaps is None else gaps, vectors[1 : n + 1],
                )  # fmt: skip
            rings[n] = base.ring
            vectors[n + 1] = 0 if base.vector is None else base.vector
            self.advance(base, int(item[first + n]), None if time_us is None else int(time_us[first + n]))
        vectors[0] = base.vector
        return vectors

    def leave_out_of(
        self, state: EncoderState, item: NDArray[np.int32], time_us: NDArray[np.int64] | None, latest: int
    ) -> Floats:
        """From the ring of the state. The first time it is one pass over LATEST² / 2 events, then LATEST - 1
        steps side by side for each event since the last time."""
        if not isinstance(state, RingState) or state.count != len(item) or not 2 <= latest <= LATEST:
            return super().leave_out_of(state, item, time_us, latest)
        left = state.left_out
        if left is None:
            size = self.layers * 2 * self.dim * (LATEST - 1) ** 2
            left = state.left_out = LeftOut(np.zeros(size, self._dtype), np.empty((0, self.dim), self._dtype))
        if left.count < state.count:
            vectors = np.empty((min(state.count, LATEST), self.dim), self._dtype)
            if state.before is not None:
                vectors[-1] = state.before
            held, left.count = left.count, 0  # a pass that fails half way leaves nothing behind
            self._module.leave_each_out(
                self._compiled, state.ring, left.own, held, state.count, state.before is None,
                np.ascontiguousarray(item, np.int32),
                None if time_us is None else np.ascontiguousarray(time_us, np.int64), vectors,
            )  # fmt: skip
            left.vectors, left.count = vectors, state.count
        found = np.empty((latest + 1, self.dim), self._dtype)
        found[0], found[1:] = state.vector, left.vectors[-latest:]
        return found


def encoder_of(
    weights: Mapping[str, Any],
    *,
    ffn: str = "silu",
    cosine: bool = False,
    kernel_choice: str | None = None,
    lean: bool = False,
) -> Encoder:
    """The fastest encoder there is for these weights. Raises CorruptArtifact where one is missing.

    lean: see `CompiledEncoder`; NumPy's encoder has only one form of the matrices.
    """
    plain = Encoder(weights, ffn=ffn, cosine=cosine)
    compiled = kernel(ENCODER, kernel_choice)
    stale = compiled is not None and not hasattr(
        compiled.module, "leave_each_out"
    )  # built from an older source
    if compiled is None or stale or not _known(plain):
        return plain
    return CompiledEncoder(weights, ffn=ffn, cosine=cosine, compiled=compiled, lean=lean)


def _known(encoder: Encoder) -> bool:
    """Whether `_encoder.c` has these layers: what it does not know goes to NumPy."""
    if encoder.item.dtype not in (np.float32, np.float64) or encoder.ffn not in FFN:
        return False
    wide = [f.name for f in fields(TransformerBlock) if f.default is MISSING]
    blocks = _transformer_blocks(encoder)
    shapes = [[getattr(block, name).shape for name in wide] for block in blocks]
    gated = [block.gate1_weight is not None for block in blocks]
    return (
        len(blocks) == encoder.layers
        and all(shape == shapes[0] for shape in shapes)
        and len(set(gated)) == 1
        and encoder.dim % encoder.heads == 0
    )


def _transformer_blocks(encoder: Encoder) -> list[TransformerBlock]:
    return [block for block in encoder._blocks if isinstance(block, TransformerBlock)]

"""A user's state in a quarter of its bytes, for the time that nobody asks: keys and values in int8.

Each key and value, a vector of D numbers, is x ≈ s · v with v whole in [-127, 127] and s = max |x| / 127 in
bfloat16. The few bits of s make s · v exact in float32, so packing what was unpacked gives the same bytes: a
state that rests after every event holds each vector as it was rounded once, when its event came.

Source: rounding to nearest by token, the plain form; KVQuant (Hooper et al. 2024) has finer ones. Differs:
only at rest; attention reads float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slipstream.inference.packed_weights import from_upper_half, upper_half

if TYPE_CHECKING:
    from slipstream.inference.encoder import EncoderState

STEPS = 127


@dataclass(frozen=True)
class RowsAtRest:
    """[..., D] as v int8 [..., D] and the bfloat16 of s, uint16 [...]."""

    codes: NDArray[np.int8]
    scale: NDArray[np.uint16]

    @classmethod
    def of(cls, rows: NDArray[Any]) -> RowsAtRest:
        """Rows with a number that is not finite come back as NaN."""
        largest = np.abs(rows).max(axis=-1)
        half = upper_half((largest / STEPS).astype(np.float32))
        scale = from_upper_half(half)[..., None]
        v = np.divide(rows, scale, out=np.zeros_like(rows), where=(scale > 0) & np.isfinite(scale))
        return cls(np.clip(np.rint(v), -STEPS, STEPS).astype(np.int8), half)

    def into(self, rows: NDArray[Any]) -> None:
        """Write them there, [..., D]."""
        with np.errstate(invalid="ignore"):  # of a row that was not finite
            np.multiply(self.codes, from_upper_half(self.scale)[..., None], out=rows)


@dataclass(frozen=True)
class StateAtRest:
    """What `EncoderState.at_rest` gives; the latest vector stays as it is."""

    keys: RowsAtRest
    values: RowsAtRest
    count: int
    last_us: int | None
    vector: NDArray[Any] | None
    size: tuple[int, ...]  # as `kind.blank` wants it
    dtype: np.dtype[Any]
    kind: type[EncoderState]

    @property
    def nbytes(self) -> int:
        parts = self.keys, self.values
        return sum(part.codes.nbytes + part.scale.nbytes for part in parts)

    def awake(self) -> EncoderState:
        """A state to go on from. Cost: one pass over its numbers."""
        state = self.kind.blank(self.size, self.dtype)
        self.keys.into(state.keys)
        self.values.into(state.values)
        state.count, state.last_us, state.vector = self.count, self.last_us, self.vector
        return state

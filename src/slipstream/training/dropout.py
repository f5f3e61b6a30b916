"""Dropout from a pool of random masks.

Drawing a random number per element took a third of a training step on a CPU. Here a pool of masks, already
scaled by 1 / (1 - p), is drawn once an epoch, and each use takes a window of it at a random place.
"""

from __future__ import annotations

import torch
from torch import Tensor

POOL = 1 << 22  # elements; 8 MB in bfloat16. Larger than one use, so that two uses rarely overlap


class MaskPool:
    """Masks of dropout rate `rate`, all drawn from one stream: same generator state, same masks."""

    def __init__(self, rate: float, dtype: torch.dtype, stream: torch.Generator) -> None:
        self.rate = rate
        self.stream = stream
        self.dtype = dtype
        on_cpu = stream.device.type == "cpu"  # places in the pool are drawn here, wherever the pool lies
        self._places = stream if on_cpu else torch.Generator().manual_seed(stream.initial_seed())
        self._pool = self._draw(POOL) if rate > 0 else torch.ones(0)

    def _draw(self, size: int) -> Tensor:
        kept = torch.rand(size, generator=self.stream, device=self.stream.device) >= self.rate
        return kept.to(self.dtype) / (1 - self.rate)

    def mask(self, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """A mask of `shape`: a view into the pool, not to be written to."""
        size = 1
        for length in shape:
            size *= length
        if size >= len(self._pool):
            self._pool = self._draw(2 * size)
        start = int(torch.randint(len(self._pool) - size, (1,), generator=self._places).item())
        return self._pool[start : start + size].view(shape)

    def __call__(self, values: Tensor) -> Tensor:
        if self.rate == 0:
            return values
        return values * self.mask(values.shape)

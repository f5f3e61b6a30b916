"""The paths that can be tested here: NumPy, and each instruction set if the kernels are built."""

from __future__ import annotations

from slipstream.kernels import built


def paths(module: str) -> list[str]:
    compiled = built(module)
    return ["numpy", *(compiled.levels() if compiled is not None else ())]

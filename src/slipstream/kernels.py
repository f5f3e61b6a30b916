"""Which kernels are in use: compiled C with the best instructions of this processor, or NumPy.

Each compiled module lies beside the NumPy code that it stands in for and that says what is right; the tests
compare the two. SLIPSTREAM_KERNELS chooses: `auto` (the default), `numpy`, or an instruction set that the
processor has (`portable`, `avx2`, `avx512`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from slipstream.config import kernel_choice
from slipstream.errors import ConfigError

KERNELS = ("slipstream.graph._walk", "slipstream.inference._encoder", "slipstream.inference._scan")
"""All that there are: the module names of the `_*.c` files."""


@dataclass(frozen=True)
class Kernel:
    """A compiled module and the instruction set to ask it for: its number and name."""

    module: ModuleType
    level: int
    name: str


@cache
def built(module: str) -> ModuleType | None:
    """The compiled module; None where it was not built."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def kernel(module: str, choice: str | None = None) -> Kernel | None:
    """The kernel to use; None: NumPy. choice: in place of SLIPSTREAM_KERNELS.

    Raises ConfigError for an instruction set that the processor, or the compiled module, does not have.
    """
    choice = choice or kernel_choice()
    found = None if choice == "numpy" else built(module)
    if found is None:
        return None
    names: tuple[str, ...] = found.levels()
    if choice != "auto" and choice not in names:
        raise ConfigError(
            f"SLIPSTREAM_KERNELS must be auto, numpy or one of {', '.join(names)} here, got {choice!r}"
        )
    level = len(names) - 1 if choice == "auto" else names.index(choice)
    return Kernel(found, level, names[level])


def in_use() -> str:
    """For people: the path of each kernel in one line."""
    paths = {}
    for module in KERNELS:
        found = kernel(module)
        paths[module.rpartition("._")[2]] = "NumPy" if found is None else f"compiled ({found.name})"
    if len(set(paths.values())) == 1:
        return next(iter(paths.values()))
    return ", ".join(f"{name}: {path}" for name, path in paths.items())

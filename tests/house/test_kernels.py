"""Which kernels are in use, and that a missing one is no trouble."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import slipstream
from slipstream.errors import ConfigError
from slipstream.kernels import KERNELS, built, in_use, kernel


def test_every_kernel_file_is_listed() -> None:
    package = Path(slipstream.__file__).parent
    files = {path.relative_to(package.parent).with_suffix("") for path in package.rglob("_*.c")}
    assert {".".join(path.parts) for path in files} == set(KERNELS)


@pytest.mark.parametrize("module", KERNELS)
def test_the_choice_is_followed(module: str) -> None:
    assert kernel(module, "numpy") is None
    if built(module) is None:
        pytest.skip("the kernels are not built here")
    best = kernel(module, "auto")
    assert best is not None
    assert best.name == best.module.levels()[-1]
    portable = kernel(module, "portable")
    assert portable is not None
    assert portable.level == 0
    with pytest.raises(ConfigError, match="SLIPSTREAM_KERNELS"):
        kernel(module, "abacus")


def test_numpy_can_be_forced_from_outside() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from slipstream.kernels import in_use; print(in_use())"],
        env={**os.environ, "SLIPSTREAM_KERNELS": "numpy"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "NumPy\n"


def test_what_is_in_use_is_told() -> None:
    assert ("compiled" in in_use()) == any(built(module) for module in KERNELS)

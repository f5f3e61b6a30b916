"""The compiled kernels; all else is in pyproject.toml.

Every `_name.c` inside the package becomes the module of the same name in the room where it lies. They are
optional: without a compiler the installation goes on and NumPy does the work (`slipstream doctor` tells).
One build serves every Python from 3.11 on (stable ABI).
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

SOURCE = Path("src")
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")  # the free-threaded build has no stable ABI yet
FLAGS = [] if sys.platform == "win32" else ["-O3", "-fvisibility=hidden"]


def kernels() -> list[Extension]:
    headers = [path.as_posix() for path in SOURCE.rglob("*.h")]
    return [
        Extension(
            ".".join(path.relative_to(SOURCE).with_suffix("").parts),
            [path.as_posix()],
            depends=headers,
            include_dirs=[(SOURCE / "slipstream").as_posix()],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE else [],
            extra_compile_args=FLAGS,
            py_limited_api=STABLE,
            optional=True,
        )
        for path in sorted(SOURCE.rglob("_*.c"))
    ]


setup(
    ext_modules=kernels(),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)

"""A peer's own environment, made from the package index where there is none; what that took is kept beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KEPT = "made.json"


@dataclass(frozen=True)
class Environment:
    """seconds: of the wall, to make it. size: bytes of all files."""

    python: Path
    seconds: float
    size: int


def environment(place: Path, steps: Sequence[Sequence[str]], check: str) -> Environment:
    """steps: what each `pip install` is given, in order. check: a statement that works once all is there.

    One that was not finished is finished. Raises CalledProcessError with what pip or the check said.
    """
    python = place / "bin" / "python"
    kept = place / KEPT
    if not (kept.exists() and _works(python, check)):
        print(f"making the environment in {place}", flush=True)
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        for step in steps:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *step], check=True)
        subprocess.run([str(python), "-c", check], check=True)
        size = sum(
            file.stat().st_size for file in place.rglob("*") if file.is_file() and not file.is_symlink()
        )
        kept.write_text(json.dumps({"seconds": time.perf_counter() - begun, "size": size}))
    return Environment(python, **json.loads(kept.read_text()))


def _works(python: Path, check: str) -> bool:
    return subprocess.run([str(python), "-c", check], capture_output=True, check=False).returncode == 0

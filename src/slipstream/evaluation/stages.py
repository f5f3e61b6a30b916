"""What a run cost: CPU and wall seconds per stage, peak memory, and what it ran with."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata

_PACKAGES = ("slipstream", "numpy", "scipy", "polars", "torch")


@dataclass(frozen=True)
class Cost:
    """Seconds: cpu_s is user + system of this process, all its threads and its finished children."""

    cpu_s: float
    wall_s: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu_s + other.cpu_s, self.wall_s + other.wall_s)


@dataclass
class Stopwatch:
    """Costs by stage, in the order in which stages began; a stage that runs twice adds up."""

    costs: dict[str, Cost] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), _cpu_seconds()
        try:
            yield
        finally:
            spent = Cost(_cpu_seconds() - cpu, time.perf_counter() - wall)
            self.costs[name] = self.costs.get(name, Cost(0.0, 0.0)) + spent

    def copy(self) -> Stopwatch:
        return Stopwatch(dict(self.costs))


def total(costs: dict[str, Cost]) -> Cost:
    return sum(costs.values(), Cost(0.0, 0.0))


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def peak_rss_bytes() -> int:
    """The most memory this process or one of its finished children has held so far; it never goes down."""
    unit = 1 if sys.platform == "darwin" else 1024
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in both) * unit


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number; torch only where it was loaded."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        if package == "torch" and "torch" not in sys.modules:
            continue
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found

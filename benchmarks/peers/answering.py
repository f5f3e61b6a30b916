"""What every peer does with a job, in its own environment: fit, answer all, answer one at a time. No slipstream here.

A job names an .npz file with the past (user, item, time_us; in order of time, dense numbers), who is asked and how many
items there are. An adapter gives `fit(data, settings)` and `top(fitted, users, k)`, which are all that is counted as
its lines.
"""

from __future__ import annotations

import inspect
import json
import pickle
import resource
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROWS, SINGLE = 20, 200


class Data(NamedTuple):
    user: np.ndarray  # [E]
    item: np.ndarray  # [E]
    time_us: np.ndarray  # [E]; without a clock, the places
    users: int
    items: int
    folder: Path  # for whatever files the peer wants
    seed: int


def run(
    fit: Callable[[Data, dict[str, Any]], Any],
    top: Callable[[Any, np.ndarray, int], np.ndarray],
    package: str,
    size: Callable[[Any], int] | None = None,
) -> None:
    """top: [U, k] items, -1 where there are fewer. size: bytes of what is kept; else of the pickled model."""
    warnings.filterwarnings("ignore")
    job = json.loads(Path(sys.argv[1]).read_text())
    arrays = np.load(job["data"])
    folder = Path(job["data"]).parent
    asked = arrays["asked"]
    data = Data(
        arrays["user"], arrays["item"], arrays["time_us"], job["users"], job["items"], folder, job["seed"]
    )
    imports = _peak()
    begun = _cpu()
    fitted = fit(data, job["settings"])
    fit_cpu_s = _cpu() - begun
    begun = _cpu()
    lists = np.asarray(top(fitted, asked, ROWS))
    answer_cpu_s = _cpu() - begun
    peak = _peak()
    one = []
    for user in asked[:: max(1, len(asked) // SINGLE)][:SINGLE]:
        begun = time.process_time()
        top(fitted, np.array([user]), 10)
        one.append((time.process_time() - begun) * 1e3)
    np.save(job["lists"], lists.astype(np.int32))
    told = {
        "fit_cpu_s": fit_cpu_s, "answer_cpu_s": answer_cpu_s, "p50_ms": float(np.percentile(one[1:], 50)),
        "p99_ms": float(np.percentile(one[1:], 99)), "peak_rss_bytes": peak, "import_rss_bytes": imports,
        "artifact_bytes": len(pickle.dumps(fitted)) if size is None else size(fitted),
        "lines": _lines(fit) + _lines(top), "version": version(package),
    }  # fmt: skip
    Path(job["told"]).write_text(json.dumps(told))


def _cpu() -> float:
    """Of this process and of those that it has waited for."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _lines(function: Callable[..., Any]) -> int:
    """Without the `def`, blank lines, comments and the docstring."""
    lines = [line.strip() for line in inspect.getsource(function).splitlines()[1:]]
    return sum(bool(line) and not line.startswith(("#", '"""')) for line in lines)


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """The k best columns per row; -1 for what is not finite."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.isfinite(np.take_along_axis(scores, order, axis=1)), order, -1)

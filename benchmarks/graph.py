"""What does it cost to build a graph of millions of triples, to open it again, and to hold it?

    python benchmarks/graph.py [--triples 2500000] [--seed 0] [--folder DIR]

Synthetic: Zipf heads and tails among triples / 8 entities with IRIs of 30 to 40 bytes as names, 20 relations,
one of them the inverse of another, 1 % of the rows repeated, a few self-loops. Each step is a process of its
own; peak is the largest resident size of that process, and `import` is that of a process that only imports.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in STEPS:
        STEPS[sys.argv[1]](Path(sys.argv[2]), json.loads(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--triples", type=int, default=2_500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    print("command: python", " ".join(sys.argv))
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; python"
        f" {platform.python_version()}, polars {version('polars')}, numpy {version('numpy')}; threads"
        f" {os.environ.get('POLARS_MAX_THREADS', 'all')}"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for step in STEPS:
            asked = json.dumps({"triples": options.triples, "seed": options.seed})
            told = subprocess.check_output([sys.executable, __file__, step, name, asked])
            print(f"{step:8}", told.decode().splitlines()[-1], flush=True)


def _say(started: tuple[float, float], **more: Any) -> None:
    cpu, wall = time.process_time() - started[0], time.perf_counter() - started[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = "  ".join(f"{k} {v}" for k, v in more.items())
    print(f"{cpu:8.3f} CPU s {wall:8.3f} wall s {peak:7.0f} MB peak   {told}")


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def _make(folder: Path, asked: dict[str, int]) -> None:
    import numpy as np
    import polars as pl

    draw, count = np.random.default_rng(asked["seed"]), asked["triples"]
    started, entities = _now(), max(10, count // 8)
    head, tail = ((draw.zipf(1.3, count) * 7919 + draw.integers(0, entities, count)) % entities for _ in "ht")
    relation = draw.integers(0, 18, count)
    relation[: count // 50] = 19
    head[: count // 50], tail[: count // 50] = tail[-count // 50 :], head[-count // 50 :]
    relation[-count // 50 :] = 18
    again = draw.integers(0, count, count // 100)
    head[again], relation[again], tail[again] = head[again - 1], relation[again - 1], tail[again - 1]
    frame = pl.DataFrame({"h": head, "r": relation, "t": tail})
    frame.select(
        pl.format("http://example.org/resource/{}", pl.col("h")).alias("head"),
        pl.format("relation_{}", pl.col("r")).alias("relation"),
        pl.format("http://example.org/resource/{}", pl.col("t")).alias("tail"),
    ).write_csv(folder / "triples.tsv", separator="\t")
    _say(started, rows=count)


def _import(folder: Path, asked: dict[str, int]) -> None:
    started = _now()
    import slipstream.graph.construction  # noqa: F401

    _say(started)


def _build(folder: Path, asked: dict[str, int]) -> None:
    from slipstream.graph.construction import build
    from slipstream.graph.triple_files import read_triples

    started = _now()
    done = build(read_triples(folder / "triples.tsv"))
    done.graph.write(folder / "graph")
    report = done.report
    _say(started, edges=report.edges, entities=report.entities, duplicates=report.duplicates)


def _open(folder: Path, asked: dict[str, int]) -> None:
    from slipstream.graph.knowledge_graph import KnowledgeGraph

    started = _now()
    graph = KnowledgeGraph.open(folder / "graph")
    _say(started, edges=graph.edge_count)


def _walk(folder: Path, asked: dict[str, int]) -> None:
    """Opened, and every edge read once in both directions: what holding it costs when it is used."""
    from slipstream.graph.knowledge_graph import KnowledgeGraph

    started = _now()
    graph = KnowledgeGraph.open(folder / "graph")
    total = sum(
        int(graph.edges_to(e).sum()) + int(graph.tail[graph.edges_from(e)].sum())
        for e in range(0, graph.entity_count, 50)
    )
    _say(started, total=total)


STEPS = {"make": _make, "import": _import, "build": _build, "open": _open, "walk": _walk}


if __name__ == "__main__":
    main()

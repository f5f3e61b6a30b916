"""Does the graph help? The same model without it, with it shuffled, and with it as it is.

    python benchmarks/graph_ablation.py --data DATA_FOLDER/ml-1m-kg --board cold [--model path_reasoner] [--test]
        [--json FOLDER/ml-1m-kg-cold.json]
    python benchmarks/graph_ablation.py --tables FOLDER --write docs/results.md

The second form makes the table of docs/results.md from the files of the first.

Shuffled: within each relation the tails change places, so every node keeps its degree and says nothing true any
more. Beside them, items ranked by the number of their edges ("degree"). What is fitted, chosen and shown is the
validation of the board; with --test its test, to be looked at once. Differences are paired over people.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from slipstream.artifacts import replace_text
from slipstream.cluster.threads import blas_threads
from slipstream.dataset.folder import DataFolder, read_folder
from slipstream.dataset.queries import Holdout, Queries
from slipstream.evaluation.arena import Arena, open_arenas
from slipstream.evaluation.intervals import Interval, bootstrap_interval, paired_interval
from slipstream.evaluation.metrics import hits_of, ndcg
from slipstream.evaluation.tables import Cell, Figure, Table, markdown
from slipstream.models.recommender import FitContext, refit, refits
from slipstream.models.registry import model_type
from slipstream.recommend.ranking import rank

Values = NDArray[np.float64]
GRAPHS = ("none", "shuffled", "full")
OTHERS = ("none", "shuffled", "degree")
BEGIN, END = "<!-- begin: made by benchmarks/graph_ablation.py -->", "<!-- end of the graph -->"


def main() -> None:
    options = _options()
    if options.tables is not None:
        write_tables(options.tables, options.write)
        return
    if "full" not in options.graphs:
        sys.exit("--graphs must name full: the others stand beside it")
    if options.data is None:
        sys.exit("--data FOLDER measures, --tables FOLDER shows what was measured")
    print(f"command: python {' '.join(sys.argv)}")
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; numpy {np.__version__}"
    )
    folder = read_folder(options.data)
    found: dict[str, Values] = {}
    with blas_threads():
        for name in options.graphs:
            start = time.process_time()
            arena = _arena(folder, options.board, name, options.seed)
            found[name] = _of_model(arena, options.model, options.seed, test=options.test)
            print(f"{options.model}, graph {name}: {time.process_time() - start:.0f} CPU s")
        found["degree"] = _by_degree(arena, test=options.test)
    print(f"NDCG@10 on {options.board}, {'test' if options.test else 'validation'}:")
    for name, values in found.items():
        interval = bootstrap_interval(values)
        print(f"  {name:9} {interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]")
    full = float(np.nanmean(found["full"]))
    gaps = {name: paired_interval(found["full"], found[name]) for name in OTHERS if name in found}
    for name, gap in gaps.items():
        mean = float(np.nanmean(found[name]))
        ratio = f"{full / mean:.2f} times" if mean > 0 else "it says nothing"
        print(f"  full beside {name}: {ratio}, difference {gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]")
    if options.json is not None:
        _keep(options, folder, found, gaps)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--board", default="cold")
    parser.add_argument("--model", default="path_reasoner")
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=GRAPHS, help="full must be one")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    parser.add_argument("--tables", type=Path, help="a folder of such files")
    parser.add_argument("--write", type=Path, help="put their table between the marks of this page")
    return parser.parse_args()


def _keep(
    options: argparse.Namespace, folder: DataFolder, found: dict[str, Values], gaps: dict[str, Interval]
) -> None:
    kept = {
        "data": folder.name,
        "board": options.board,
        "model": options.model,
        "seed": options.seed,
        "part": "test" if options.test else "validation",
        "users": int((~np.isnan(found["full"])).sum()),
        "ndcg": {name: asdict(bootstrap_interval(values)) for name, values in found.items()},
        "full minus": {name: asdict(gap) for name, gap in gaps.items()},
    }
    replace_text(options.json, json.dumps(kept, indent=1))


def table_of(kept: list[dict[str, Any]]) -> Table:
    """One row a data set and board; what the graph is claimed to do needs the interval beside shuffled."""
    rows: list[tuple[Cell, ...]] = []
    for one in kept:
        figures = {name: Interval(**value) for name, value in one["ndcg"].items()}
        gaps = {name: Interval(**value) for name, value in one["full minus"].items()}
        cells = [_figure(figures.get(name)) for name in ("none", "shuffled", "degree", "full")]
        worth = [_figure(gaps.get(name)) for name in ("none", "shuffled")]
        verdict = _verdict(gaps.get("shuffled"))
        name = f"{one['data']}, {one['board']} ({one['part']}, {one['users']:,} users)"
        rows.append((name, *cells, *worth, verdict))
    columns = (
        "data, board", "no graph", "shuffled", "by degree", "full", "full − none", "full − shuffled",
        "does it help?",
    )  # fmt: skip
    model = ", ".join(sorted({one["model"] for one in kept}))
    return Table(
        f"what the graph is worth to {model}, NDCG@10",
        columns,
        tuple(rows),
        "catalogue columns left out; differences paired over users; it helps where the interval beside shuffled"
        " lies above 0",
    )


def _left_out(one: dict[str, Any]) -> str:
    kept = [name for name in GRAPHS if name in one["ndcg"]]
    return "" if len(kept) == len(GRAPHS) else " --graphs " + " ".join(kept)


def _figure(interval: Interval | None) -> Cell:
    return "–" if interval is None else Figure(interval.mean, interval)


def _verdict(gap: Interval | None) -> str:
    if gap is None or not gap.excludes_zero:
        return "not shown"
    return "yes" if gap.low > 0 else "no"


def write_tables(folder: Path, page: Path | None) -> None:
    """Print the table of all files of a folder, or put it into a page."""
    kept = [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]
    if not kept:
        sys.exit(f"there are no files of --json in {folder}")
    made = markdown(table_of(kept))
    if page is None:
        print(made)
        return
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{page} has no place for the table: it needs the lines {BEGIN} and {END}")
    lines = ["```"]
    for one in kept:
        test = " --test" if one["part"] == "test" else ""
        lines.append(
            f"python benchmarks/graph_ablation.py --data {one['data']} --board {one['board']}"
            f" --model {one['model']} --seed {one['seed']}{test}{_left_out(one)}"
        )
    commands = "\n".join([*lines, "```"])
    replace_text(page, f"{before}{BEGIN}\n\n{made}\n{commands}\n\n{END}{after}")


def _arena(folder: DataFolder, board: str, graph: str, seed: int) -> Arena:
    if folder.kg is None:
        raise SystemExit("this folder has no graph")
    if graph == "shuffled":
        folder = replace(folder, kg=_shuffled(folder.kg, seed))
    # the catalogue's columns say what the graph says: neither counts where the graph is left out or shuffled
    (arena,) = open_arenas(
        folder, [board], seed=seed, without=("items", "graph") if graph == "none" else ("items",)
    )
    return arena


def _shuffled(kg: pl.DataFrame, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    parts = kg.partition_by("relation", maintain_order=True)
    return pl.concat([p.with_columns(p["tail"].gather(rng.permutation(p.height))) for p in parts])


def _of_model(arena: Arena, name: str, seed: int, *, test: bool) -> Values:
    kind = model_type(name)
    context = FitContext(seed=seed)
    model: Any = kind.fit(arena.data, kind.preset(arena.data), context)
    if test and arena.board.refit and refits(model):
        model = refit(model, arena.past(), context)
    return _ndcg(arena, model.score, test=test)


def _by_degree(arena: Arena, *, test: bool) -> Values:
    linked = arena.data.graph
    assert linked is not None
    ends = np.concatenate([linked.edges.head, linked.edges.tail])
    degree = np.bincount(ends, minlength=linked.node_count)[: linked.item_count].astype(np.float32)
    return _ndcg(arena, lambda queries: np.tile(degree, (len(queries), 1)), test=test)


class _Scorer:
    def __init__(self, score: Callable[[Queries], NDArray[np.float32]]) -> None:
        self.score = score


def _ndcg(arena: Arena, score: Callable[[Queries], NDArray[np.float32]], *, test: bool) -> Values:
    board = arena.board
    holdout: Holdout | None = board.test if test else board.validation
    candidates = board.candidates if test else board.validation_candidates
    if holdout is None:
        raise SystemExit("this board has no validation")
    model: Any = _Scorer(score)
    items, _ = rank(model, holdout.queries, 10, candidates=candidates)
    return ndcg(hits_of(items, holdout), 10)


if __name__ == "__main__":
    main()

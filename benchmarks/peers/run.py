"""One peer, or slipstream, on one board: what it costs to have, to train and to ask, and how good its lists are.

    python benchmarks/peers/run.py implicit --data ../shared/data/ml-100k --board loo --out runs/peers
    python benchmarks/peers/run.py --table runs/peers

Each peer comes from the package index into an environment of its own (kept in the cache folder), is fitted on the whole past of the
board (training and validation) in one thread, and hands over lists; slipstream's own measure scores them. Settings
were chosen on validation of the same data in an earlier study or are the library's own (`SETTINGS`); nothing is
chosen here. CPU seconds are user and system. One user: 10 items, in process, the median and the 99th of 200.
Lines: statements from arrays to lists. Artifact: the pickled model, or what the library saves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment

from slipstream.artifacts import replace_text
from slipstream.config import cache_folder, parse_assignments
from slipstream.dataset.folder import read_folder
from slipstream.dataset.splits import board
from slipstream.evaluation.scores import score_lists
from slipstream.evaluation.tables import Table, markdown

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
RECBOLE = ["setuptools<81", "numpy<2", "pandas<3", "scipy==1.11.4"]


@dataclass(frozen=True)
class Peer:
    """steps: what each `pip install` is given. friction: what stood between the first of them and a first list."""

    adapter: str
    steps: tuple[tuple[str, ...], ...]
    check: str
    settings: dict[str, Any]
    explains: str
    friction: str = "none"


PEERS = {
    "implicit": Peer(
        "peer_implicit.py", (("implicit==0.7.3",),), "import implicit",
        {"factors": 64, "regularization": 10.0, "alpha": 1.0, "iterations": 15}, "by history",
    ),
    "irspack": Peer(
        "peer_irspack.py", (("irspack==0.5.2",),), "import irspack",
        {"n_components": 64, "alpha0": 0.3, "reg": 0.01}, "no",
    ),
    "lenskit": Peer(
        "peer_lenskit.py", ((TORCH, "lenskit==2025.8.1"),), "import lenskit.als",
        {"embedding_size": 32, "regularization": 1.0, "weight": 5}, "no",
        "2026 needs Python 3.12",
    ),
    "rectools": Peer(
        "peer_rectools.py", ((TORCH,), ("rectools[torch]==0.19.*",)), "import rectools.models",
        {"model": "EASEModel", "regularization": 100.0}, "no", "numpy<2, pandas<3",
    ),
    "recbole": Peer(
        "peer_recbole.py", ((TORCH, "recbole==1.2.1", *RECBOLE),), "import recbole.quick_start",
        {"library": "recbole", "model": "EASE"}, "no",
        "four pins by hand; torch.load patched; typed files",
    ),
    "hopwise": Peer(
        "peer_recbole.py", ((TORCH, "hopwise==0.9.1.post1"),), "import hopwise.quick_start",
        {"library": "hopwise", "model": "EASE"}, "paths, of its graph models", "typed files",
    ),
    "slipstream": Peer(
        "peer_slipstream.py", ((str(HERE.parents[1]),),), "import slipstream",
        {"model": "item_neighbours"}, "by history, by paths",
    ),
    "slipstream_train": Peer(
        "peer_slipstream.py", ((TORCH, f"{HERE.parents[1]}[train]"),), "import slipstream, torch",
        {"model": "transformer"}, "by history, by paths",
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", nargs="?", choices=sorted(PEERS))
    parser.add_argument("--data", type=Path, default=HERE.parents[1].parent / "shared" / "data" / "ml-100k")
    parser.add_argument("--board", default="loo", choices=["loo", "temporal"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a setting of the peer, key=value")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--environments", type=Path, default=cache_folder() / "peers")
    parser.add_argument(
        "--table", type=Path, help="print the table of a folder of results and do nothing else"
    )
    options = parser.parse_args()
    if options.table is not None:
        print(
            markdown(
                table_of([json.loads(file.read_text()) for file in sorted(options.table.glob("*.json"))])
            )
        )
        return
    if options.peer is None or not options.data.exists():
        parser.error("name a peer" if options.peer is None else f"there is no data at {options.data}")
    told = measured(options)
    name = "-".join(
        [options.data.name, options.board, options.peer, *(str(v) for v in told["settings"].values())]
    )
    replace_text(options.out / f"{name}.json", json.dumps(told, indent=1))
    print(markdown(table_of([told])))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    peer = PEERS[options.peer]
    where = environment(options.environments / options.peer, peer.steps, peer.check)
    settings = {**peer.settings, **parse_assignments(options.set)}
    cut = board(read_folder(options.data), options.board, seed=options.seed)
    past, asked = cut.past, cut.test.queries.user
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        clock = np.arange(past.event_count) if past.time_us is None else past.time_us
        order = np.argsort(clock, kind="stable")
        columns = {"user": past.user[order], "item": past.item[order], "time_us": clock[order]}
        np.savez(place / "data.npz", asked=asked, **columns)
        job = {
            "data": str(place / "data.npz"), "lists": str(place / "lists.npy"), "told": str(place / "told.json"),
            "settings": settings, "users": past.user_count, "items": past.item_count, "seed": options.seed,
        }  # fmt: skip
        (place / "job.json").write_text(json.dumps(job))
        one = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
        )
        subprocess.run(
            [str(where.python), str(HERE / peer.adapter), "job.json"], cwd=place, check=True,
            env={**os.environ, **one, "SLIPSTREAM_THREADS": "1", "PYTHONPATH": str(HERE)},
        )  # fmt: skip
        told = json.loads((place / "told.json").read_text())
        scores = score_lists(cut, np.load(place / "lists.npy"))
    interval = scores.intervals["NDCG@10"]
    shown = ("HR@10", "NDCG@10", "Recall@20", "Precision@10")
    return told | {
        "peer": options.peer, "settings": settings, "data": options.data.name, "board": options.board,
        "seed": options.seed, "targets_sha256": cut.targets_sha256, "machine": platform.machine(),
        "install_s": where.seconds, "install_bytes": where.size, "friction": peer.friction,
        "explains": peer.explains, "interval": [interval.low, interval.high],
        "metrics": {name: scores.metrics[name] for name in shown if name in scores.metrics},
    }  # fmt: skip


COLUMNS = (
    "board", "system", "HR@10", "NDCG@10", "Recall@20", "fit CPU s", "all users CPU s", "one user ms p50 / p99",
    "peak MB (imports)", "artifact MB", "install MB", "install s", "lines", "reasons", "friction",
)  # fmt: skip


def table_of(results: list[dict[str, Any]]) -> Table:
    ordered = sorted(results, key=lambda told: (told["data"], told["board"], -told["metrics"]["NDCG@10"]))
    return Table("peers", COLUMNS, tuple(map(_row, ordered)), "one thread each; intervals: 95 %, over users")


def _row(told: dict[str, Any]) -> tuple[str, ...]:
    metrics, (low, high) = told["metrics"], told["interval"]
    size = {
        name: told[name] / 1e6
        for name in ("peak_rss_bytes", "import_rss_bytes", "artifact_bytes", "install_bytes")
    }
    model = str(told["settings"].get("model", "als"))
    return (
        f"{told['data']} {told['board']}",
        f"{told['peer']} {told['version']} {model}",
        f"{metrics['HR@10']:.4f}" if told["board"] == "loo" else "–",
        f"{metrics['NDCG@10']:.4f} [{low:.4f}, {high:.4f}]",
        f"{metrics['Recall@20']:.4f}",
        f"{told['fit_cpu_s']:.2f}",
        f"{told['answer_cpu_s']:.2f}",
        f"{told['p50_ms']:.3f} / {told['p99_ms']:.3f}",
        f"{size['peak_rss_bytes']:,.0f} ({size['import_rss_bytes']:,.0f})",
        f"{size['artifact_bytes']:.2f}",
        f"{size['install_bytes']:,.0f}",
        f"{told['install_s']:.0f}",
        str(told["lines"]),
        told["explains"],
        told["friction"],
    )


if __name__ == "__main__":
    sys.exit(main())

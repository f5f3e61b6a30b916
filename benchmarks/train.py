"""How much CPU does the transformer need to be as good as RecTools' SASRec at its best?

    python benchmarks/train.py [--data ml-1m] [--threads 2] [--rounds 1] [--peer-cpu-s 900]
        [--peer-set KEY=VALUE …] [--set KEY=VALUE …] [--only race|ingredients]

Both learn from the same training events of board `loo` and are asked for the same validation targets after every
epoch: full ranking, seen items filtered, NDCG@10. Nobody looks at the test part. The peer (RecTools 0.19 with
torch, from the package index, in an environment of its own that is made on the first run) gets the dimension,
layers, heads and window of our preset and keeps its own loss (full softmax), optimizer, rate, dropout and batch;
--peer-set changes them, `--peer-set library` takes its constructor as it is. It stops after `--peer-patience` epochs
without a better value. Ours is the preset with --set on top. Each run is a process of its own, in turn; CPU seconds
(user + system) are those of the epochs, without preparation and validation, which are printed apart.

Then the parts of our recipe one by one: benchmarks/train_ingredients.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from peers.environment import environment
from slipstream.cluster.threads import blas_threads
from slipstream.config import cache_folder, parse_assignments
from slipstream.dataset.splits import Board
from slipstream.evaluation.arena import open_arenas
from slipstream.evaluation.stages import Stopwatch, peak_rss_bytes, versions
from slipstream.evaluation.trial import Run, settings_for
from slipstream.models.recommender import FitContext
from slipstream.models.registry import model_type

SHARED = Path(os.environ.get("SLIPSTREAM_SHARED", Path(__file__).parents[2] / "shared"))
PEER = "rectools[torch]==0.19.*"
MODEL = "transformer"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(ours(json.loads(Path(sys.argv[2]).read_text()))))
        return
    options = _options()
    print("command:", " ".join(["python", *sys.argv]))
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"threads: {options.threads} each, of BLAS and torch")
    if options.only != "ingredients":
        race(options)
    if options.only != "race":
        here = Path(__file__).with_name("train_ingredients.py")
        subprocess.run([sys.executable, str(here)], check=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="ml-1m", help="a folder of SLIPSTREAM_SHARED/data, or a path")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--rounds", type=int, default=1, help="each with another seed, ours and the peer in turn"
    )
    parser.add_argument("--epochs", type=int, default=200, help="of the peer, at most")
    parser.add_argument("--peer-patience", type=int, default=10)
    parser.add_argument(
        "--peer-cpu-s", type=float, default=900.0, help="after which the peer starts no epoch"
    )
    parser.add_argument("--peer-set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--only", choices=("race", "ingredients"))
    parser.add_argument("--environment", type=Path, default=cache_folder() / "peers" / "rectools-0.19")
    return parser.parse_args()


def race(options: argparse.Namespace) -> None:
    folder = Path(options.data) if Path(options.data).is_dir() else SHARED / "data" / options.data
    if not (folder / "interactions.parquet").exists():
        sys.exit(
            f"{options.data} is not here: point SLIPSTREAM_SHARED at the folder that holds data/{options.data}"
        )
    python = peer_environment(options.environment)
    (arena,) = open_arenas(folder, ["loo"])
    preset = model_type(MODEL).preset(arena.data)
    settings = settings_for(preset, MODEL, parse_assignments(options.set)).model_dump()
    events = trained_on(arena.board, settings["recent"])
    print(f"data: {arena.data_name}, {arena.board.train.event_count:,} training events, ", end="")
    print(f"{len(arena.board.validation or ()):,} validation targets, {arena.board.train.item_count:,} items")
    with tempfile.TemporaryDirectory() as place:
        base: dict[str, Any] = {"threads": options.threads, **write_data(arena.board, Path(place))}
        rounds = []
        for seed in range(options.rounds):
            peer_job = {
                **base, "seed": seed, "settings": peer_settings(settings, options.peer_set),
                "epochs": options.epochs, "patience": options.peer_patience, "cpu_s": options.peer_cpu_s,
            }  # fmt: skip
            if not seed:
                print("the peer's settings:", json.dumps(peer_job["settings"]))
            own_job = {**base, "seed": seed, "folder": str(folder), "set": options.set}
            peer = run_child(
                [str(python), str(Path(__file__).with_name("train_rectools.py"))], peer_job, place
            )
            own = run_child([sys.executable, __file__, "--child"], own_job, place)
            rounds.append((own, peer))
            tell(seed, own, peer, events, windows(arena.board, peer_job["settings"]))
        if len(rounds) > 1:
            ratios = [ratio for own, peer in rounds if (ratio := ratio_of(own, peer)) is not None]
            print(
                f"median over {len(ratios)} of {len(rounds)} rounds: {median(ratios or [float('nan')]):.1f} times less"
            )


def peer_environment(place: Path) -> Path:
    """The Python of the peer's own environment, made where there is none (about 1.3 GB)."""
    import torch

    steps = ([f"torch=={torch.__version__.partition('+')[0]}"], [PEER])
    return environment(place, steps, "from rectools.models import SASRecModel").python


def peer_settings(ours: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Our preset's size in the peer's words; `library`: nothing is said, so its constructor's own."""
    same = {
        "n_factors": ours["dim"], "n_blocks": ours["layers"], "n_heads": ours["heads"],
        "session_max_len": ours["recent"] or ours["max_length"], "loss": "softmax",
    }  # fmt: skip
    given = [text for text in assignments if text != "library"]
    return ({} if "library" in assignments else same) | parse_assignments(given)


def write_data(board: Board, place: Path) -> dict[str, str]:
    """What the peer reads: events in their order, and one target per user."""
    holdout = board.validation
    assert holdout is not None
    train = board.train
    np.savez(
        place / "data.npz",
        user=train.user,
        item=train.item,
        asked=holdout.queries.user,
        target=holdout.target,
    )
    return {"data": str(place / "data.npz")}


def run_child(command: list[str], job: dict[str, Any], place: str) -> dict[str, Any]:
    file = Path(place) / "job.json"
    file.write_text(json.dumps(job))
    threads = {n: str(job["threads"]) for n in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [*command, str(file)], stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **threads}
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Our training in a process of its own: the fit alone, validated on every user after every epoch."""
    (arena,) = open_arenas(job["folder"], ["loo"])
    every = {"validate_every": 1, "patience": 0, "validation_users": 1_000_000}
    kind = model_type(MODEL)
    settings = settings_for(kind.preset(arena.data), MODEL, every | parse_assignments(job["set"]))

    def show(done: int, total: int | None, note: str) -> None:
        if note:
            print(f"  {note}", file=sys.stderr)

    context = FitContext(job["seed"], job["threads"], show)
    run = Run(arena, MODEL, kind, 10, context, repeat=False, keep_model=False)
    with blas_threads():
        model, _ = run.fitted(settings, Stopwatch())
    return {
        "curve": model.report.curve,
        "all_cpu_s": time.process_time(),
        "peak_rss_bytes": peak_rss_bytes(),
        "versions": versions(),
        "settings": settings.model_dump(mode="json"),
    }


def trained_on(board: Board, recent: int) -> int:
    """Events that are an answer in one epoch of ours."""
    inputs = np.maximum(np.diff(board.train.offsets) - 1, 0)
    return int((np.minimum(inputs, recent) if recent else inputs).sum())


def windows(board: Board, settings: dict[str, Any]) -> int:
    """Events that are an answer in one epoch of the peer: one window a user, the latest events."""
    inputs = np.maximum(np.diff(board.train.offsets) - 1, 0)
    return int(np.minimum(inputs, settings.get("session_max_len", 100)).sum())


def best_of(told: dict[str, Any]) -> dict[str, float]:
    rows = [row for row in told["curve"] if "validation_ndcg@10" in row]
    found: dict[str, float] = max(rows, key=lambda row: row["validation_ndcg@10"])
    return found


def reached(told: dict[str, Any], value: float) -> dict[str, float] | None:
    """The first epoch that is as good."""
    rows = (row for row in told["curve"] if row.get("validation_ndcg@10", 0.0) >= value)
    return next(rows, None)


def ratio_of(own: dict[str, Any], peer: dict[str, Any]) -> float | None:
    best = best_of(peer)
    there = reached(own, best["validation_ndcg@10"])
    return None if there is None else best["train_cpu_s"] / there["train_cpu_s"]


def tell(seed: int, own: dict[str, Any], peer: dict[str, Any], own_events: int, peer_events: int) -> None:
    print(f"\nseed {seed}{'best NDCG@10':>22}{'epoch':>7}{'CPU s there':>13}", end="")
    print(f"{'CPU s in all':>14}{'answers/CPU s':>15}{'peak MB':>9}")
    for name, told, events in (("RecTools SASRec", peer, peer_events), ("slipstream", own, own_events)):
        best, last = best_of(told), told["curve"][-1]
        rate = events * len(told["curve"]) / last["train_cpu_s"]
        print(
            f"{name:16}{best['validation_ndcg@10']:12.4f}{best['epoch']:7.0f}{best['train_cpu_s']:13.1f}",
            end="",
        )
        print(f"{told['all_cpu_s']:14.1f}{rate:15,.0f}{told['peak_rss_bytes'] / 1e6:9,.0f}")
    best, ratio = best_of(peer), ratio_of(own, peer)
    there = reached(own, best["validation_ndcg@10"])
    if there is None or ratio is None:
        print(f"ours does not reach the peer's best validation NDCG@10 of {best['validation_ndcg@10']:.4f}")
    else:
        print(
            f"the peer's best after {best['train_cpu_s']:.1f} CPU s of its own, {there['train_cpu_s']:.1f} of ours ",
            end="",
        )
        print(f"(epoch {there['epoch']:.0f}): {ratio:.1f} times less")
    print("versions:", json.dumps(peer["versions"]), json.dumps(own["versions"]), flush=True)


if __name__ == "__main__":
    main()

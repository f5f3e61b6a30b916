"""What do the count and closed-form models cost to fit and to ask, and how does that grow with the log?

    python benchmarks/simple_models.py [--thousands 100 1000 4000] [--models item_neighbours ease ials]
        [--data FOLDER] [--threads 1] [--seed 0]

Each fit is a process of its own. The synthetic log has Zipf items, 100 events a person and 4 items a thousand
events; people walk from an item to a neighbour of it, so there is something to find. With --data the events of
a data folder are used instead (all of them, no validation). The settings are the preset's with nothing left to
choose: `choose_cpu_s` is what choosing them on 2,000 held-out events costs on top.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

MODELS = ("popularity", "recency_popularity", "item_neighbours", "ease", "ials")


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        print(json.dumps(_child(json.loads(sys.argv[2]))))
        return
    options = _options()
    os.environ.update({name: str(options.threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")})
    print("command:", " ".join(["python", *sys.argv]))
    print(
        "machine:",
        platform.processor() or platform.machine(),
        os.cpu_count(),
        "cores, load",
        os.getloadavg()[0],
    )
    print(
        "versions:",
        sys.version.split()[0],
        {name: version(name) for name in ("numpy", "scipy", "slipstream")},
    )
    print("threads:", options.threads)
    print(f"{'model':20}{'events':>10}{'users':>8}{'items':>8}{'fit_cpu_s':>11}{'choose_cpu_s':>14}", end="")
    print(f"{'one_ms':>8}{'batch_us':>10}{'peak_MB':>9}{'data_MB':>9}")
    sizes: list[int | str] = [options.data] if options.data else [k * 1000 for k in options.thousands]
    for name in options.models:
        for size in sizes:
            job = {"model": name, "size": size, "seed": options.seed}
            _show(json.loads(subprocess.check_output([sys.executable, __file__, "--child", json.dumps(job)])))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--thousands", type=int, nargs="+", default=[100, 1000, 4000])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--data", help="a data folder instead of the synthetic logs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _show(row: dict[str, Any]) -> None:
    print(
        f"{row['model']:20}{row['events']:>10}{row['users']:>8}{row['items']:>8}{row['fit_cpu_s']:>11.2f}",
        end="",
    )
    print(f"{row['choose_cpu_s']:>14.2f}{row['one_ms']:>8.3f}{row['batch_us']:>10.1f}", end="")
    print(f"{row['peak_mb']:>9.0f}{row['data_mb']:>9.0f}", flush=True)


def _child(job: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from slipstream.dataset.queries import Holdout, queries_of
    from slipstream.models.recommender import FitContext, TrainingData, refit
    from slipstream.models.registry import model_type

    train = _folder(job["size"]) if isinstance(job["size"], str) else _synthetic(job["size"], job["seed"])
    data_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    asked = np.random.default_rng(job["seed"]).permutation(train.user_count)[:2000]
    last = train.offsets[1:][asked] - 1
    asked = asked[train.offsets[:-1][asked] < last]
    mask = np.ones(train.event_count, bool)
    mask[train.offsets[1:][asked] - 1] = False
    rest = train.keep(mask)
    target = train.item[train.offsets[1:][asked] - 1]
    held_out = Holdout(queries_of(rest, asked), np.arange(len(asked) + 1), target)
    kind = model_type(job["model"])
    whole = TrainingData(rest, held_out)
    chosen_s, model = _timed(lambda: kind.fit(whole, kind.preset(whole), FitContext()))
    fit_s, model = _timed(lambda: refit(model, TrainingData(train), FitContext()))
    queries = queries_of(train, asked[:500])
    one = []
    for _, part in queries.batches(1):
        started = time.perf_counter()
        model.score(part)
        one.append(time.perf_counter() - started)
    batch_s, _ = _timed(lambda: [model.score(part) for _, part in queries.batches(100)])
    return {
        "model": job["model"],
        "events": train.event_count,
        "users": train.user_count,
        "items": train.item_count,
        "fit_cpu_s": fit_s,
        "choose_cpu_s": max(chosen_s - fit_s, 0.0),
        "one_ms": sorted(one)[len(one) // 2] * 1e3,
        "batch_us": batch_s / max(len(queries), 1) * 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "data_mb": data_mb,
    }


def _timed(work: Any) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def _synthetic(events: int, seed: int) -> Any:
    """A walk in steps of at most 5 among the items, with a Zipf jump in one step of four."""
    import numpy as np

    from slipstream.dataset.snapshot import Snapshot
    from slipstream.dataset.vocabulary import Vocabulary

    draw = np.random.default_rng(seed)
    users, items = max(events // 100, 1), max(events // 250, 10)
    length = events // users
    jumps = np.minimum(draw.zipf(1.2, (users, length)) - 1, items - 1)
    jump = draw.random((users, length)) < 0.25
    jump[:, 0] = True
    steps = np.where(jump, 0, draw.integers(1, 6, (users, length)))
    since = np.maximum.accumulate(np.where(jump, np.arange(length), 0), axis=1)
    walked = np.cumsum(steps, axis=1)
    start = np.take_along_axis(jumps, since, axis=1)
    item = (start + walked - np.take_along_axis(walked, since, axis=1)) % items
    times = np.sort(draw.integers(0, 365 * 86_400_000_000, (users, length)), axis=1)
    return Snapshot(
        users=Vocabulary.of(str(n) for n in range(users)),
        items=Vocabulary.of(str(n) for n in range(items)),
        offsets=np.arange(0, users * length + 1, length, dtype=np.int64),
        item=item.astype(np.int32).ravel(),
        value=np.ones(users * length, np.float32),
        kind=np.zeros(users * length, np.uint8),
        kinds=("click",),
        time_us=times.ravel(),
    )


def _folder(path: str) -> Any:
    from slipstream.dataset.folder import read_folder
    from slipstream.dataset.snapshot import snapshot_of

    folder = read_folder(path)
    return snapshot_of(folder.interactions, ordered=folder.has_order)


if __name__ == "__main__":
    main()

"""What does it cost to turn a log into a snapshot, beside DuckDB, Polars and pandas, and how does it grow?

    python benchmarks/prepare.py [--millions 1 5 20] [--forms parquet csv] [--ids number text]
        [--order random time] [--engines read slipstream duckdb polars-streaming pandas] [--repeat 1]

Every engine gets the same synthetic Zipf log and does the same work: keep the latest event of each user and
item, 5-core to a fixed point, ids without gaps, sort by user and time. The peers stop at a table in memory;
ours also keeps the order of arrival, writes the snapshot with a checksum for every file, and syncs it.
`read` only reads the file: the floor.

Each run is a process of its own, its start and imports included; what the system says it used is reported:
CPU seconds (user + system), wall seconds, peak resident memory. Engines take turns (A B C A B C …), and the
median counts. Engines must agree on the number of events, users and items that are left.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

# Nothing heavy is imported up here: the peak memory of a child starts at that of its parent.

LEAST = 5
USERS_PER_MILLION, ITEMS_PER_MILLION = 50_000, 10_000
YEAR_S = 365 * 86_400
ENGINES = ("read", "slipstream", "duckdb", "polars-streaming", "pandas")
NEEDS = {"duckdb": ("duckdb", "pyarrow"), "pandas": ("pandas", "pyarrow")}


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        _child(sys.argv[2], Path(sys.argv[3]))
        return
    options = _options()
    engines = [engine for engine in options.engines if _installed(engine)]
    _introduce(options)
    measured: dict[tuple[str, str, str, str, int], float] = {}
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=options.folder) as place:
        for ids in options.ids:
            for order in options.order:
                for millions in options.millions:
                    files = _logs(Path(place), millions, ids, order, options)
                    for form in options.forms:
                        title = f"{millions}M events, {form}, {ids} ids, {order} order"
                        for engine, run in _measure(engines, files[form], title, options).items():
                            measured[engine, form, ids, order, millions] = run.cpu_s
                    for file in files.values():
                        file.unlink()
    _growth(measured)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--forms", nargs="+", choices=("parquet", "csv"), default=["parquet", "csv"])
    parser.add_argument("--ids", nargs="+", choices=("number", "text"), default=["number"])
    parser.add_argument("--order", nargs="+", choices=("random", "time"), default=["random"])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the logs are made; default: the temporary folder")
    return parser.parse_args()


def _installed(engine: str) -> bool:
    missing = [name for name in NEEDS.get(engine, ()) if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{engine} is skipped: {', '.join(missing)} not installed")
    return not missing


def _introduce(options: argparse.Namespace) -> None:
    names = ("numpy", "scipy", "polars", "duckdb", "pandas", "pyarrow")
    found = [f"{name} {version(name)}" for name in names if importlib.util.find_spec(name)]
    print(f"command: python {' '.join(sys.argv)}")
    print(
        f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}; threads {options.threads}; seed {options.seed}"
    )
    print(f"versions: python {platform.python_version()}, {', '.join(found)}")


@dataclass(frozen=True)
class Run:
    """What one process used, and the events, users and items that it was left with."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    left: tuple[int, int, int]


def _measure(engines: list[str], file: Path, title: str, options: argparse.Namespace) -> dict[str, Run]:
    print(f"\n{title} ({file.stat().st_size / 1e6:,.0f} MB), median of {options.repeat}")
    print(f"{'engine':<20}{'CPU s':>8}{'wall s':>8}{'peak MB':>9}{'CPU against ours':>18}   left")
    runs: dict[str, list[Run]] = {engine: [] for engine in engines}
    for _ in range(options.repeat):
        for engine in engines:
            runs[engine].append(_run(engine, file, options.threads))
    medians = {engine: _median(many) for engine, many in runs.items()}
    ours = medians.get("slipstream")
    for engine, run in medians.items():
        ratio = f"{run.cpu_s / ours.cpu_s:.2f}" if ours else "-"
        left = "" if engine == "read" else "{:,} events, {:,} users, {:,} items".format(*run.left)
        print(f"{engine:<20}{run.cpu_s:>8.1f}{run.wall_s:>8.1f}{run.peak_mb:>9,.0f}{ratio:>18}   {left}")
    if len({run.left for engine, run in medians.items() if engine != "read"}) > 1:
        raise SystemExit("the engines disagree on what is left")
    return medians


def _median(runs: list[Run]) -> Run:
    return Run(
        statistics.median(run.cpu_s for run in runs),
        statistics.median(run.wall_s for run in runs),
        statistics.median(run.peak_mb for run in runs),
        runs[0].left,
    )


def _run(engine: str, file: Path, threads: int) -> Run:
    import time

    limits = {name: str(threads) for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "BENCHMARK_THREADS")}
    command = [sys.executable, __file__, "--child", engine, str(file)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **limits}, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{engine} failed on {file.name}")
    left = json.loads(output.splitlines()[-1])
    return Run(used.ru_utime + used.ru_stime, wall_s, used.ru_maxrss / 1024, tuple(left))


def _growth(measured: dict[tuple[str, str, str, str, int], float]) -> None:
    """The exponent b of cost = a · events^b, between each size and the next."""
    print("\ngrowth of CPU seconds: the exponent (1 = linear; below 1 where starting up still counts)")
    for what in dict.fromkeys(key[:4] for key in measured):
        engine, form, ids, order = what
        sizes = sorted(key[4] for key in measured if key[:4] == what)
        steps = []
        for small, large in pairwise(sizes):
            ratio = measured[(*what, large)] / measured[(*what, small)]
            steps.append(f"{small}M to {large}M {math.log(ratio) / math.log(large / small):.2f}")
        if steps:
            print(f"{engine:<20}{form}, {ids} ids, {order} order: {'; '.join(steps)}")


def _logs(place: Path, millions: int, ids: str, order: str, options: argparse.Namespace) -> dict[str, Path]:
    """The log in each form; made by a process of its own, so that this one stays small."""
    files = {form: place / f"log.{form}" for form in options.forms}
    settings = json.dumps([millions, ids, order, options.seed, [str(file) for file in files.values()]])
    subprocess.run([sys.executable, __file__, "--child", "make", settings], check=True)
    return files


def _make(settings: str) -> None:
    """Users by Zipf with exponent 0.5, items with 0.8: of a million users one has 20,000 events."""
    import numpy as np
    import polars as pl

    millions, ids, order, seed, files = json.loads(settings)
    random = np.random.default_rng([seed, millions])
    events = millions * 1_000_000
    columns: dict[str, Any] = {}
    for name, count, exponent in (
        ("user_id", millions * USERS_PER_MILLION, 0.5),
        ("item_id", millions * ITEMS_PER_MILLION, 0.8),
    ):
        rank = (count * random.random(events) ** (1 / (1 - exponent))).astype(np.int32)
        columns[name] = (random.permutation(count).astype(np.int32) + count)[rank]
    time_s = random.integers(1_700_000_000, 1_700_000_000 + YEAR_S, events)
    columns["timestamp"] = np.sort(time_s) if order == "time" else time_s
    log = pl.DataFrame(columns).lazy()
    if ids == "text":
        log = log.with_columns(pl.format("user-{}", "user_id"), pl.format("item-{}", "item_id"))
    for file in files:
        log.sink_parquet(file) if file.endswith(".parquet") else log.sink_csv(file)


def _child(engine: str, file: Path) -> None:
    if engine == "make":
        _make(str(file))
        return
    engines: dict[str, Callable[[Path], tuple[int, int, int]]] = {
        "read": _read,
        "slipstream": _slipstream,
        "duckdb": _duckdb,
        "polars-streaming": _polars_streaming,
        "pandas": _pandas,
    }
    print(json.dumps(engines[engine](file)))


def _read(file: Path) -> tuple[int, int, int]:
    import polars as pl

    log = pl.scan_parquet(file) if file.suffix == ".parquet" else pl.scan_csv(file)
    return sum(batch.height for batch in log.collect_batches(chunk_size=1 << 17)), 0, 0


def _slipstream(file: Path) -> tuple[int, int, int]:
    from slipstream.dataset.cleaning import CleaningRules
    from slipstream.dataset.preparation import prepare

    rules = CleaningRules(keep="last", min_user_events=LEAST, min_item_events=LEAST)
    with tempfile.TemporaryDirectory(dir=file.parent) as place:
        report = prepare(file, rules, Path(place) / "snapshot")
    return report.events, report.users, report.items


def _duckdb(file: Path) -> tuple[int, int, int]:
    import duckdb

    base = duckdb.connect()
    base.execute(f"SET threads = {int(os.environ['BENCHMARK_THREADS'])}")
    base.execute("SET preserve_insertion_order = false")
    reader = "read_parquet" if file.suffix == ".parquet" else "read_csv"
    base.execute(
        f"CREATE TABLE e AS SELECT user_id, item_id, max(timestamp) AS t FROM {reader}('{file}') GROUP BY ALL"  # noqa: S608
    )
    while True:
        counts = base.execute("SELECT count(*) FROM e").fetchone()
        base.execute(
            f"""CREATE TABLE f AS SELECT * FROM e
            SEMI JOIN (SELECT user_id FROM e GROUP BY 1 HAVING count(*) >= {LEAST}) u USING (user_id)
            SEMI JOIN (SELECT item_id FROM e GROUP BY 1 HAVING count(*) >= {LEAST}) i USING (item_id)"""  # noqa: S608
        )
        base.execute("DROP TABLE e; ALTER TABLE f RENAME TO e")
        if base.execute("SELECT count(*) FROM e").fetchone() == counts:
            break
    for name in ("user", "item"):
        base.execute(
            f"""CREATE TABLE {name}s AS
            SELECT {name}_id, (row_number() OVER (ORDER BY {name}_id) - 1)::INT AS n
            FROM (SELECT DISTINCT {name}_id FROM e)"""  # noqa: S608
        )
    base.execute(
        """CREATE TABLE sorted AS SELECT u.n AS user, i.n AS item, e.t FROM e
        JOIN users u USING (user_id) JOIN items i USING (item_id) ORDER BY user, t"""
    )
    total = base.execute("SELECT count(*), max(user) + 1, max(item) + 1 FROM sorted").fetchone()
    assert total is not None
    return int(total[0]), int(total[1]), int(total[2])


def _polars_streaming(file: Path) -> tuple[int, int, int]:
    import polars as pl

    log = pl.scan_parquet(file) if file.suffix == ".parquet" else pl.scan_csv(file)
    events = log.group_by("user_id", "item_id").agg(t=pl.col("timestamp").max()).collect(engine="streaming")
    while True:
        before, lazy = events.height, events.lazy()
        for name in ("user_id", "item_id"):
            common = events.lazy().group_by(name).len().filter(pl.col("len") >= LEAST)
            lazy = lazy.join(common, on=name, how="semi")
        events = lazy.collect(engine="streaming")
        if events.height == before:
            break
    lazy = events.lazy()
    for name in ("user_id", "item_id"):
        numbers = events.lazy().select(name).unique().sort(name).with_row_index(name.removesuffix("_id"))
        lazy = lazy.join(numbers, on=name).drop(name)
    table = (
        lazy.select(pl.col("user", "item").cast(pl.Int32), "t").sort("user", "t").collect(engine="streaming")
    )
    users, items = table.select(pl.col("user").max() + 1, pl.col("item").max() + 1).row(0)
    return table.height, users, items


def _pandas(file: Path) -> tuple[int, int, int]:
    import pandas as pd

    read = pd.read_parquet if file.suffix == ".parquet" else lambda f: pd.read_csv(f, engine="pyarrow")
    events = read(file)
    events = events.groupby(["user_id", "item_id"], sort=False, as_index=False)["timestamp"].max()
    while True:
        before = len(events)
        users, items = events["user_id"].value_counts(), events["item_id"].value_counts()
        events = events[events["user_id"].isin(users.index[users >= LEAST])]
        events = events[events["item_id"].isin(items.index[items >= LEAST])]
        if len(events) == before:
            break
    user, users = pd.factorize(events["user_id"], sort=True)
    item, items = pd.factorize(events["item_id"], sort=True)
    table = pd.DataFrame(
        {"user": user.astype("int32"), "item": item.astype("int32"), "t": events["timestamp"]}
    )
    table = table.sort_values(["user", "t"])
    return len(table), len(users), len(items)


if __name__ == "__main__":
    main()

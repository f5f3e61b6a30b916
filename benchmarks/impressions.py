"""What does keeping every answer cost the server that gives it?

    python benchmarks/impressions.py [--model popularity] [--seconds 4] [--repeats 3]

Two servers over one home, in turn: one keeps every answer (`sample` 1), one none. Prints CPU microseconds an
answer under a closed loop (slates cached: the cheapest answers, so the dearest log), and the times under an open
loop of a fixed rate; then the bytes that an answer takes on the disk. Before that, what noting and writing one
answer costs in process, by what it brings: nothing left to chance, an explored place, or an interleaved list.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from serving_world import Load, Server, asks_for, closed_loop, cpu_us, machine, make_home, open_loop, serving
from slipstream.events.impressions import FeedbackSettings
from slipstream.events.sqlite_impressions import SqliteImpressionStore
from slipstream.recommend.exploration import CERTAIN, Drawn
from slipstream.recommend.slate import Slate, SlateItem
from slipstream.server.impression_log import ImpressionLog

ROWS = 10_000
POOL = tuple(f"item {n}" for n in range(20))
KINDS = {
    "plain": CERTAIN,
    "explored": Drawn((*(1.0,) * 9, 0.05), POOL),
    "interleaved": Drawn(teams="abbaababba"),
}


def _row_us(drawn: Drawn, repeats: int = 3) -> list[float]:
    """CPU microseconds of noting and writing an answer of ten items, in transactions of MOST_TOGETHER."""
    items = tuple(SlateItem(f"item {n}", "", 1.0 / (n + 1)) for n in range(10))
    slates = [Slate(f"{n:032x}", f"user {n}", items, "model", "r1", 0.0) for n in range(ROWS)]

    async def written(path: Path) -> float:
        log = ImpressionLog(SqliteImpressionStore(path), FeedbackSettings())
        start = time.process_time()
        for slate in slates:
            log.note(slate, "arm", drawn)
        log.start()
        await log.finish()
        return (time.process_time() - start) / ROWS * 1e6

    with tempfile.TemporaryDirectory(prefix="impressions-") as folder:
        return [asyncio.run(written(Path(folder) / f"{n}.sqlite")) for n in range(repeats)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="popularity")
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=300.0, help="answers a second of the open loop")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    for what, drawn in KINDS.items():
        print(f"in process, {what}: {', '.join(f'{cost:.1f}' for cost in _row_us(drawn))} us CPU an answer")
    with tempfile.TemporaryDirectory(prefix="impressions-") as folder:
        home = make_home(
            Path(folder) / "home", users=options.users, items=options.items, length=100, model=options.model
        )
        for _ in range(options.repeats):
            for sample in (0, 1):
                (home.root / "feedback.json").write_text(f'{{"sample": {sample}}}')
                with serving(home) as server:
                    _measure(server, sample, options)
        with SqliteImpressionStore(home.impressions) as store:
            kept = store.served().height
        print(f"{kept:,} answers of 10 items, {home.impressions.stat().st_size / kept:.0f} bytes each")


def _measure(server: Server, sample: int, options: argparse.Namespace) -> None:
    ask = asks_for(options.users)

    def closed() -> Load:
        return asyncio.run(closed_loop(server.port, ask, connections=16, seconds=options.seconds))

    closed()
    load, cost = cpu_us(server, closed)
    print(f"sample {sample}: {cost:5.0f} us CPU an answer   {load.line()}")
    load = asyncio.run(
        open_loop(server.port, ask, rate=options.rate, connections=64, seconds=options.seconds)
    )
    print(f"          at {options.rate:.0f}/s: {load.line()}")


if __name__ == "__main__":
    main()

"""How long until a release that is opened has given its first answer, and what does it then hold in memory?

    python benchmarks/opening.py [--items 100000] [--shape small|ml-1m] [--repeats 5]

Each repeat is a process of its own: what importing takes (the interpreter included), then wall and CPU seconds from
opening the release, every byte of it checked, to the first answer with reasons. Resident memory: what the process
holds beyond its imports, beside the bytes of the release on disk. An untrained transformer of the shape (see
next_event.py) that has met every item; the files are in the page cache, as after a promotion.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from serving_world import SHAPES, machine, make_home
from slipstream.config import Home
from slipstream.recommend.live_release import current_release
from slipstream.recommend.release import Release

ONE = """
import json, os, resource, sys, time
from pathlib import Path
from slipstream.config import Home
from slipstream.events.sqlite import SqliteEventStore
from slipstream.recommend.live_release import current_release
from slipstream.recommend.pipeline import Pipeline, Request
from slipstream.recommend.release import Release
import slipstream.models.deep.transformer, slipstream.models.simple.popularity, slipstream.server.backend

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

home, before = Home(Path(sys.argv[1])), resident()
imports_s, wall, cpu = time.process_time(), time.perf_counter(), time.process_time()
release = Release.open(current_release(home))
release.warm()
with SqliteEventStore(home.events) as store:
    slate = Pipeline(release, store, home=home).recommend(Request(user_id="u1", explain=True))
    taken = time.perf_counter() - wall, time.process_time() - cpu
assert slate.tier == "model" and len(slate.items) == 10
print(json.dumps([imports_s, *taken, resident() - before]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="opening-") as folder:
        home = make_home(
            Path(folder) / "home",
            users=100,
            items=options.items,
            length=200,
            model="transformer",
            shape=options.shape,
            known=True,
        )
        rows = np.array([_one(home) for _ in range(options.repeats)])
        size = Release.open(current_release(home)).size()
    imports_s, wall_s, cpu_s, held = np.median(rows, axis=0)
    print(
        f"imports {imports_s:.2f} CPU s; release open to first answer {cpu_s:.2f} CPU s, {wall_s:.2f} s wall"
    )
    print(f"release {size / 1e6:.1f} MB on disk, {held / 1e6:.1f} MB resident: {held / size:.2f} times")


def _one(home: Home) -> list[float]:
    command = [sys.executable, "-c", ONE, str(home.root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    numbers: list[float] = json.loads(done.stdout)
    return numbers


if __name__ == "__main__":
    main()

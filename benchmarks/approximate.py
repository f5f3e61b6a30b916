"""What does the approximate index find, and how quickly, beside the exact one?

    python benchmarks/approximate.py [--items 100000] [--dim 64] [--queries 200]     (extra `approximate`)

Item and query vectors as trained tables have them: normal numbers whose spread falls with the dimension (1 / sqrt(j)),
lengths that differ by some 30 %. CPU seconds to build, microseconds of CPU for a query (median, each query once), and
the part of the exact best 10 and 100 that is found; then with half, and all but a hundredth, of the items excluded.
"""

from __future__ import annotations

import argparse
import os
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from serving_world import machine  # noqa: E402
from slipstream.inference.approximate_index import ApproximateIndex  # noqa: E402
from slipstream.inference.item_index import ItemIndex  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(machine())
    random = np.random.default_rng(options.seed)
    spread = 1 / np.sqrt(np.arange(1, options.dim + 1))

    def vectors(count: int) -> NDArray[np.float32]:
        length = np.exp(0.3 * random.standard_normal((count, 1)))
        return (random.standard_normal((count, options.dim)) * spread * length).astype(np.float32)

    items, queries = vectors(options.items), vectors(options.queries)
    exact, exact_s = timed(lambda: ItemIndex(items))
    index, build_s = timed(lambda: ApproximateIndex.of(exact, items))
    print(f"build: exact {exact_s:.1f}, approximate {build_s:.1f} CPU s")
    for part in (0.0, 0.5, 0.99):
        excluded = None if not part else random.random(options.items) < part
        for k in (10, 100):
            truth, exact_us = searched(exact, queries, k, excluded)
            found, us = searched(index, queries, k, excluded)
            same = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(truth, found, strict=True)])
            print(
                f"excluded {part:4.0%}  K {k:3}  exact {exact_us:6.0f} us  approximate {us:6.0f} us  recall {same:.4f}"
            )


def timed(make):  # type: ignore[no-untyped-def]
    start = time.process_time()
    return make(), time.process_time() - start


def searched(
    index: ItemIndex | ApproximateIndex,
    queries: NDArray[np.float32],
    k: int,
    excluded: NDArray[np.bool_] | None,
) -> tuple[list[NDArray[np.int32]], float]:
    found, times = [], []
    for query in queries:
        start = time.process_time_ns()
        found.append(index.search(query[None], k, excluded=excluded)[0][0])
        times.append((time.process_time_ns() - start) / 1e3)
    return found, float(np.median(times))


if __name__ == "__main__":
    main()

"""What does a user's next event cost in the transformer, and a whole history, in C and in NumPy?

    python benchmarks/encoder.py [--paths avx512 portable numpy]

One thread, random weights; CPU time, least and median, in microseconds. `inside`: many events appended in a
row, without the clock between them, the Python around each included. `weights`: the bytes of the body that a step
has to read. Rows: one event on a full ring; the state of a whole history (as long as the receptive field, at
most 250 events); the same for 64 histories at once (per history); the ten latest events left out in turn, with the history
read anew, and from the state.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

from slipstream.inference.compiled_encoder import ENCODER, encoder_of  # noqa: E402
from slipstream.kernels import built  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "inference"))
from encoder_world import Shape, random_weights  # noqa: E402

SHAPES = {
    "d 64, 2 layers, window 64 (small preset)": Shape(dim=64, heads=2, layers=2, window=64, inner=256),
    "d 64, 2 layers, window 200": Shape(dim=64, heads=2, layers=2, window=200, inner=256),
    "d 128, 2 layers, window 50 (short histories)": Shape(dim=128, heads=2, layers=2, window=50, inner=512),
    "d 128, 4 layers, window 64 (ML-1M preset)": Shape(dim=128, heads=4, layers=4, window=64, inner=512),
}
STEPS = 50


def main() -> None:
    compiled = built(ENCODER)
    levels = [*reversed(compiled.levels()), "numpy"] if compiled is not None else ["numpy"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paths", nargs="+", default=levels)
    options = parser.parse_args()
    print(f"command: python {' '.join(sys.argv)}")
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
        f" python {platform.python_version()}, numpy {np.__version__}, one thread, seed 0"
    )
    for name, shape in SHAPES.items():
        weights = random_weights(shape, 0, np.float32)
        size = sum(value.nbytes for key, value in weights.items() if key.startswith("layer."))
        print(f"\n{name}; weights {size / 1e6:.2f} MB")
        heads = ("one event", "median", "inside", "history", "of 64", "left out", "of a state")
        print(f"  {'':10}" + "".join(f"{head:>11}" for head in heads))
        for path in options.paths:
            print(f"  {path:10}" + "".join(f"{value:11.1f}" for value in _measure(shape, weights, path)))


def _measure(shape: Shape, weights: dict[str, np.ndarray], path: str) -> list[float]:
    encoder = encoder_of(weights, kernel_choice=path)
    random = np.random.default_rng(0)
    length = min(encoder.receptive_field, 250)
    item = random.integers(0, shape.items, 64 * length).astype(np.int32)
    times = np.arange(64 * length) * 10**8
    one, its_times = item[:length], times[:length]
    offsets = np.arange(65) * length
    state = encoder.prefill(one, its_times)
    fresh = state.copy()
    quick = path != "numpy"

    def several(_: int) -> None:
        for _n in range(STEPS):
            encoder.advance(state, 5, state.last_us)

    step = _times(lambda n: encoder.advance(state, n % shape.items, state.last_us), 500)
    return [
        min(step),
        float(np.median(step)),
        min(_times(several, 20)) / STEPS,
        min(_times(lambda n: encoder.prefill(one, its_times), 50 if quick else 10)),
        min(_times(lambda n: encoder.encode(offsets, item, times), 3)) / 64,
        min(_times(lambda n: encoder.leave_out(one, its_times, 10), 10 if quick else 3)),
        min(_times(lambda n: encoder.leave_out_of(fresh, one, its_times, 10), 50 if quick else 3)),
    ]


def _times(call: Callable[[int], object], repeats: int) -> list[float]:
    found = []
    for n in range(repeats):
        start = time.process_time_ns()
        call(n)
        found.append((time.process_time_ns() - start) / 1e3)
    return found


if __name__ == "__main__":
    main()

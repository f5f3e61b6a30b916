"""How long do the exact ten best of a table of item vectors take, beside reading the table once and the libraries?

    python benchmarks/topk.py [--items 10000 100000 1000000] [--dim 64] [--forms unit tailed] [--packed]

One thread. Per method: the least and the median CPU time of one query, and of 64 at once (per query), and
whether the answer was brute force's for all queries. `floor` is numpy summing the int8 table as int64: about
what reading it once costs. faiss and onnxruntime are measured if they are installed. `unit`: isotropic vectors
of length one, where no bound by norms helps; `tailed`: a mixture of 500 clusters with lognormal norms. `--packed`:
instead, tables in fewer bits, with their bytes an item (the search copy beside them too) and how much of the first
ten of float32 they find.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from slipstream.compression.quantization import pack as pack_table  # noqa: E402
from slipstream.inference.item_index import SCAN, ItemIndex, exact_scores, pack  # noqa: E402
from slipstream.inference.item_rows import FORMS, rows_of  # noqa: E402
from slipstream.kernels import built  # noqa: E402

Rows = NDArray[np.float32]
Search = Callable[[Rows], object]
QUERIES, K = 64, 10


def main() -> None:
    options = _options()
    print(f"command: python {' '.join(sys.argv)}")
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
        f" python {platform.python_version()}, numpy {np.__version__}, one thread, seed {options.seed}"
    )
    for form in options.forms:
        for items in options.items:
            measure = _measure_packed if options.packed else _measure
            measure(form, items, options.dim, options.seed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--forms", choices=("unit", "tailed"), nargs="+", default=["unit", "tailed"])
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _measure(form: str, items: int, dim: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors, queries = _world(random, form, items, dim)
    right = [_brute_force(vectors, query) for query in queries]
    print(f"\n{form}, {items:,} items of {dim}")
    print(f"  {'':32} {'one: least':>11} {'median':>9} {'of 64':>9} {'exact':>6}")
    lines = pack(vectors, np.ones(items, bool)).lines.reshape(-1).view(np.int64)
    _row("floor (int8 table read once)", lambda _: lines.sum(), queries[:1], None, items)
    for name, search in _methods(vectors):
        _row(name, search, queries, right, items)


def _measure_packed(form: str, items: int, dim: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors, queries = _world(random, form, items, dim)
    right = [_brute_force(vectors, query) for query in queries]
    singles = [query[None].copy() for query in queries]
    print(f"\n{form}, {items:,} items of {dim}")
    print(f"  {'':12} {'packing':>10} {'an item':>9} {'with copy':>10} {'one: median':>12} {'overlap':>8}")
    for name in FORMS:
        began = time.process_time()
        packed = pack_table(vectors, name)
        spent_s = time.process_time() - began
        index = ItemIndex(rows_of(packed))
        one = np.median(_times(lambda n, index=index: index.search(singles[n % QUERIES], K), QUERIES))
        found = [index.search(query, K)[0][0].tolist() for query in singles]
        shared = np.mean([len({*r} & {*f}) / K for r, f in zip(right, found, strict=True)])
        own, copied = packed.nbytes / items, (packed.nbytes + index.nbytes) / items
        print(f"  {name:12} {spent_s:8.2f} s {own:7.1f} B {copied:8.1f} B {one:9.4f} ms {shared:8.3f}")


def _world(random: np.random.Generator, form: str, items: int, dim: int) -> tuple[Rows, Rows]:
    queries = random.standard_normal((QUERIES, dim)).astype(np.float32)
    x = random.standard_normal((items, dim), np.float32)
    if form == "unit":
        return x / np.linalg.norm(x, axis=1, keepdims=True), queries
    spectrum = (np.arange(dim) + 1.0) ** -0.8
    centres = random.standard_normal((500, dim)) * spectrum
    x = centres[random.integers(0, 500, items)] + 0.5 * x * spectrum
    x *= np.exp(0.5 * random.standard_normal((items, 1)))
    return x.astype(np.float32), (queries * spectrum).astype(np.float32)


def _methods(vectors: Rows) -> Iterator[tuple[str, Search]]:
    compiled = built(SCAN)
    for path in [*(reversed(compiled.levels()) if compiled is not None else ()), "numpy"]:
        index = ItemIndex(vectors, kernel_choice=path)
        yield f"ItemIndex, {path}", lambda queries, index=index: index.search(queries, K)[0]
        print(f"  {'':34} rescored {index.rescored / max(index.searched, 1):.0f} items a query")
    yield "numpy float32, argpartition", lambda queries: _plain(vectors, queries)
    yield from _faiss(vectors)
    yield from _onnxruntime(vectors)


def _plain(vectors: Rows, queries: Rows) -> NDArray[np.int64]:
    scores = queries @ vectors.T
    best = np.argpartition(scores, -K, axis=1)[:, -K:]
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
    return np.take_along_axis(best, order, 1)


def _faiss(vectors: Rows) -> Iterator[tuple[str, Search]]:
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(1)
    kinds = {"flat": faiss.IndexFlatIP(vectors.shape[1])}
    kinds["SQ8"] = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    for kind, index in kinds.items():
        index.train(vectors)
        index.add(vectors)
        yield f"faiss {faiss.__version__} {kind}", lambda queries, index=index: index.search(queries, K)[1]


def _onnxruntime(vectors: Rows) -> Iterator[tuple[str, Search]]:
    """MatMulInteger over an int8 table with a scale per item, then TopK."""
    try:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return
    scale = np.abs(vectors).max(axis=1) / 127
    table = np.rint(vectors / scale[:, None]).astype(np.int8).T.copy()
    graph = helper.make_graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["q"], ["w", "unit", "zero"]),
            helper.make_node("MatMulInteger", ["w", "table", "zero"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["floats", "scale"], ["scores"]),
            helper.make_node("TopK", ["scores", "k"], ["values", "items"]),
        ],
        "best",
        [helper.make_tensor_value_info("q", TensorProto.FLOAT, [None, vectors.shape[1]])],
        [helper.make_tensor_value_info("items", TensorProto.INT64, [None, K])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(scale.astype(np.float32), "scale"),
            numpy_helper.from_array(np.array([K], np.int64), "k"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    choices = onnxruntime.SessionOptions()
    choices.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), choices)
    name = f"onnxruntime {onnxruntime.__version__} int8, onnx {onnx.__version__}"
    yield name, lambda queries: session.run(None, {"q": queries})[0]


def _brute_force(vectors: Rows, query: Rows) -> list[int]:
    near = np.argpartition(vectors @ query, -4 * K)[-4 * K :]
    scores = exact_scores(query, vectors[near])
    return near[np.lexsort((near, -scores))[:K]].tolist()


def _row(name: str, search: Search, queries: Rows, right: list[list[int]] | None, items: int) -> None:
    repeats = 20 if items >= 1_000_000 else 200
    if right is None:
        one = _times(lambda n: search(queries), repeats)
        print(f"  {name:32} {min(one):8.4f} ms {np.median(one):6.4f} ms")
        return
    singles = [queries[q : q + 1].copy() for q in range(QUERIES)]
    one = _times(lambda n: search(singles[n % QUERIES]), repeats)
    many = min(_times(lambda n: search(queries), 3)) / QUERIES
    same = sum(np.asarray(search(q)).tolist() == [r] for q, r in zip(singles, right, strict=True))
    print(f"  {name:32} {min(one):8.4f} ms {np.median(one):6.4f} ms {many:6.4f} ms {same:3}/{QUERIES}")


def _times(call: Callable[[int], object], repeats: int) -> list[float]:
    found = []
    for n in range(repeats):
        start = time.process_time_ns()
        call(n)
        found.append((time.process_time_ns() - start) / 1e6)
    return found


if __name__ == "__main__":
    main()

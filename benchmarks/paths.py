"""How fast are path sums, the best paths and whole answers?

    python benchmarks/paths.py --data DATA_FOLDER/ml-1m-kg [--board split] [--users 300]

1. The path reasoner, one person at a time: scores of all items, the best ten, three paths or groups of paths for
each (p50, p95, p99), and one explanation alone. 2. All people in batches. 3. The exact sum over simple paths of at
most 3, 4 and 5 hops on the plain graph (people, items, entities; all gammas 1), and at most 3 against
`networkx.all_simple_paths`, which walks them one by one and counts the same paths. CPU time, one thread (set
OPENBLAS_NUM_THREADS=1). SLIPSTREAM_KERNELS=numpy measures the reasoner without its kernel. Whether the paths are
true is benchmarks/explanations.py's question.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import networkx
import numpy as np
import scipy
from numpy.typing import NDArray

from slipstream.dataset.queries import Queries, excluded_mask, query_of
from slipstream.evaluation.arena import Arena, open_arenas
from slipstream.graph.path_sums import PathSums
from slipstream.graph.paths import best_paths
from slipstream.graph.weighted_graph import WeightedGraph
from slipstream.inference.retriever import top_k
from slipstream.kernels import in_use
from slipstream.models.kg.path_reasoner import PathReasoner
from slipstream.models.recommender import FitContext

Floats = NDArray[np.float64]


def main() -> None:
    options = _options()
    print(f"command: python {' '.join(sys.argv)}")
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; python"
        f" {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}, networkx"
        f" {networkx.__version__}; BLAS threads {os.environ.get('OPENBLAS_NUM_THREADS', 'default')}; kernels {in_use()}"
    )
    (arena,) = open_arenas(options.data, [options.board])
    wall, cpu = time.perf_counter(), time.process_time()
    model = PathReasoner.fit(arena.data, PathReasoner.preset(arena.data), FitContext(seed=options.seed))
    print(f"fit: {time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} CPU s")
    queries = arena.board.test.queries
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(queries))[: options.users])
    _one_by_one(model, queries, chosen)
    _batch(model, queries)
    _plain(arena, options.paths_users, options.seed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--board", default="split")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--paths-users", type=int, default=5, help="people whose paths networkx enumerates")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _one_by_one(model: PathReasoner, queries: Queries, chosen: NDArray[np.int64]) -> None:
    model.score(queries.part(0, 1))  # what is built on first use
    model.paths(queries.part(0, 1), 0, 1)
    other = query_of([0])
    whole, grouped, score_only, explain = [], [], [], []
    for row in chosen:
        query = queries.part(int(row), int(row) + 1)
        model.score(other)  # another question in between: nothing is laid out
        start = time.process_time()
        scores = model.score(query)
        items, _ = top_k(scores, 10, excluded=excluded_mask(query, scores.shape[1], repeat=False))
        scored = time.process_time()
        model.paths_to(query, items[0].tolist(), 3)
        whole.append(time.process_time() - start)
        score_only.append(scored - start)
        before = time.process_time()
        model.path_groups(query, items[0].tolist(), 3)
        grouped.append(scored - start + time.process_time() - before)
        for item in items[0]:
            model.score(other)
            before = time.process_time()
            model.paths(query, int(item), 3)
            explain.append(time.process_time() - before)
    for name, times in (
        ("score + top 10", score_only),
        ("score + top 10 + 3 paths each", whole),
        ("score + top 10 + 3 groups each", grouped),
        ("one explanation", explain),
    ):
        p50, p95, p99 = np.percentile(np.array(times) * 1e3, [50, 95, 99])
        print(f"one person, CPU time: {name:32} p50 {p50:6.2f} ms, p95 {p95:6.2f}, p99 {p99:6.2f}")


def _batch(model: PathReasoner, queries: Queries) -> None:
    rates = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        for _, part in queries.batches(1024):
            model.score(part)
        rates.append(
            (len(queries) / (time.perf_counter() - wall), len(queries) / (time.process_time() - cpu))
        )
    wall_rate, cpu_rate = sorted(rates)[1]
    print(f"batch: {wall_rate:.0f} people/s, {cpu_rate:.0f} per CPU second (median of 3)")


def _plain(arena: Arena, people: int, seed: int) -> None:
    """The exact sums on the plain graph, single and batch; against networkx, which counts the same paths."""
    graph, first_user = _plain_graph(arena)
    print(f"plain graph: {graph.node_count} nodes, {len(graph.tail)} directed edges, gamma 1")
    users = np.random.default_rng(seed).permutation(arena.board.train.user_count)
    sums, items = PathSums(graph), slice(0, arena.board.train.item_count)
    for longest in (3, 4, 5):
        _measure(sums, first_user + users, longest, items)
    _against_networkx(arena, PathSums(graph), users[:people], first_user)


def _measure(sums: PathSums, users: NDArray[np.int64], longest: int, items: slice) -> None:
    first = _cpu(lambda: sums.of(users[:1], longest, items))
    one = _median([_cpu(partial(sums.of, users[n : n + 1], longest, items)) for n in range(20)])
    some = users if longest == 3 else users[:256]
    made = _cpu(lambda: sums.of(some[:65], longest, items))
    rate = len(some) / _cpu(lambda: sums.of(some, longest, items))
    print(
        f"  at most {longest} hops: first {first * 1e3:.0f} ms, then one person {one * 1e3:.2f} ms (median),"
        f" batches {rate:.0f} people per CPU second (once {made * 1e3:.0f} ms)"
    )


def _cpu(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _against_networkx(arena: Arena, sums: PathSums, users: NDArray[np.int64], first_user: int) -> None:
    graph, train = sums.graph, arena.board.train
    items = slice(0, train.item_count)
    outside = networkx.MultiDiGraph()
    outside.add_nodes_from(range(graph.node_count))
    outside.add_edges_from(
        zip(graph.head.tolist(), graph.tail.tolist(), graph.relation.tolist(), strict=True)
    )
    degree = np.diff(graph.offsets)
    shares = 1.0 / np.sqrt(degree[graph.head].astype(float) * degree[graph.tail])
    weighted = WeightedGraph.of(graph.head, graph.relation, graph.tail, shares, graph.node_count)
    for user in users:
        source, touched = first_user + int(user), set(train.history(int(user)).tolist())
        ours = _median([_cpu(partial(sums.of, np.array([source]), 3, items)) for _ in range(9)])
        found = sums.of(np.array([source]), 3, items)[0]
        fresh = [t for t in range(train.item_count) if t not in touched]
        target = fresh[int(np.argmax(found[fresh]))]
        best = _median([_cpu(partial(best_paths, weighted, source, target, 3)) for _ in range(3)])
        start = time.process_time()
        counted = sum(1 for _ in networkx.all_simple_paths(outside, source, set(fresh), cutoff=3))
        theirs = time.process_time() - start
        same = "equal" if float(found[fresh].sum()) == counted else "DIFFER"
        print(
            f"  person with {len(touched)} items: {counted} paths of at most 3 hops, counts {same};"
            f" networkx {theirs:.2f} CPU s, ours {ours * 1e3:.2f} ms ({theirs / ours:.0f}x);"
            f" best 3 paths to one item, gamma by degrees, {best * 1e3:.1f} ms"
        )


def _plain_graph(arena: Arena) -> tuple[WeightedGraph, int]:
    """Items, entities and people as nodes; facts and events as edges in both directions, gamma 1."""
    linked, train = arena.data.graph, arena.board.train
    if linked is None:
        raise SystemExit("this folder has no graph")
    edges, first_user = linked.edges, linked.node_count
    events = train.matrix().tocoo()
    ends = [
        (edges.head, edges.tail),
        (edges.tail, edges.head),
        (first_user + events.row, events.col),
        (events.col, first_user + events.row),
    ]
    relations = len(linked.graph.relations)
    kinds = [edges.relation.astype(int), edges.relation + relations, np.full(events.nnz, 2 * relations)]
    head, tail = (np.concatenate([e[side] for e in ends]) for side in (0, 1))
    relation = np.concatenate([*kinds, kinds[2] + 1])
    nodes = first_user + train.user_count
    return WeightedGraph.of(head, relation, tail, np.ones(len(head)), nodes), first_user


if __name__ == "__main__":
    main()

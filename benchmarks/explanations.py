"""Are the paths behind recommendations true, complete, the same twice, and what really carries the score?

    python benchmarks/explanations.py --data DATA_FOLDER/ml-1m-kg [--board split] [--users 200]

The path reasoner is fitted on all that is known at the time of the test and gives ten items to each of some people,
with three paths for each item. Checked: every hop is an edge of the exported graph, the first one an event of the
person's history; no hop is an event of the test; asked again, and fitted again with the same seed, it says the
same; the scores of all paths add up to the score. Measured: the share that the best three carry, how many items
share the facts that are named, and comprehensiveness: how far an item falls in the person's list when the edges of
its three paths are taken out of the graph, beside those of three other paths to the same item, of equal relations and
degree: for each path one at random of the five unshown ones of its relation whose entity (or start, where the hop to
the item is straight) has the nearest number of items; of any relation where there is none. Paired over people.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from slipstream.cluster.threads import blas_threads
from slipstream.dataset.queries import Queries, excluded_mask
from slipstream.evaluation.arena import Arena, open_arenas
from slipstream.evaluation.intervals import paired_interval
from slipstream.inference.retriever import top_k
from slipstream.models.kg.path_reasoner import VISITOR, PathReasoner
from slipstream.models.path_reasoning.legs import EdgeLeg
from slipstream.models.path_reasoning.search import STRAIGHT, Found, best_paths
from slipstream.models.path_reasoning.ties import ties_of
from slipstream.models.recommender import SOMEONE, FitContext, PathReason, refit

SHOWN, NEAREST, EVERY = 3, 5, 1_000_000
Floats = NDArray[np.float64]


@dataclass
class Tally:
    """What was seen. fall, fall_at_random: places an item falls, one mean a person."""

    paths: int = 0
    untrue: list[PathReason] = field(default_factory=list)
    leaks: int = 0
    differ: int = 0
    items: int = 0
    bare: int = 0
    shares: list[float] = field(default_factory=list)
    grouped: list[float] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    fall: list[float] = field(default_factory=list)
    fall_at_random: list[float] = field(default_factory=list)


def main() -> None:
    options = _options()
    print(f"command: python {' '.join(sys.argv)}")
    print(
        f"machine: {platform.machine()}, {os.cpu_count()} cores; numpy {np.__version__}; seed {options.seed}"
    )
    with blas_threads():
        (arena,) = open_arenas(options.data, [options.board], seed=options.seed)
        context = FitContext(seed=options.seed)
        model = _fitted(
            arena, PathReasoner.fit(arena.data, PathReasoner.preset(arena.data), context), context
        )
        again = _fitted(arena, model, context)
        tally = _looked_at(arena, model, again, options.users, options.seed)
    _told(tally)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--board", default="split")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _fitted(arena: Arena, model: PathReasoner, context: FitContext) -> PathReasoner:
    if not arena.board.refit:
        return PathReasoner.fit(arena.data, model.settings, context)
    again = refit(model, arena.past(), context)
    assert isinstance(again, PathReasoner)
    return again


def _looked_at(arena: Arena, model: PathReasoner, again: PathReasoner, people: int, seed: int) -> Tally:
    test, past, tally = arena.board.test, arena.board.past, Tally()
    rng = np.random.default_rng(seed)
    edges = set(model.exported_edges().iter_rows()) | _facts_of_people(arena)
    widths = Counter(edge[:2] for edge in edges)
    names = past.items.to_list()
    for row in np.sort(rng.permutation(len(test.queries))[:people]).tolist():
        query = test.queries.part(row, row + 1)
        scores = model.score(query)
        excluded = excluded_mask(query, scores.shape[1], repeat=False)
        if arena.board.candidates is not None:
            excluded |= ~arena.board.candidates
        items = [int(i) for i in top_k(scores, 10, excluded=excluded)[0][0] if i >= 0]
        every = model.paths_to(query, items, EVERY)
        shown = model.paths_to(query, items, SHOWN)
        tally.differ += sum(a != b[:SHOWN] for a, b in zip(shown, every, strict=True))
        tally.differ += again.paths_to(query, items, SHOWN) != shown
        targets = {names[i] for i in test.target[test.offsets[row] : test.offsets[row + 1]]}
        touched = {names[i] for i in query.item}
        person = past.users[int(query.user[0])]
        over = _over_people(arena, int(query.user[0]))
        for item, paths in zip(items, every, strict=True):
            _count(tally, paths, float(scores[0, item]))
            tally.untrue += [
                p for p in paths[:SHOWN] if not _true(p, names[item], touched, person, edges, over)
            ]
            tally.leaks += sum(h.tail in targets for p in paths[:SHOWN] for h in p.hops[:1])
        grouped = model.path_groups(query, items, SHOWN)
        tally.grouped += [sum(g.share for g in groups) for groups in grouped]
        facts = [g.best.hops[-1] for groups in grouped for g in groups if len(g.best.hops) > 2]
        tally.widths += [widths[hop.head, hop.relation] for hop in facts]
        falls = [_falls(model, query, item, excluded[0], rng) for item in items]
        if falls:
            mean = np.mean(falls, axis=0)
            tally.fall.append(float(mean[0]))
            tally.fall_at_random.append(float(mean[1]))
    return tally


def _facts_of_people(arena: Arena) -> set[tuple[str, ...]]:
    return set() if arena.data.graph is None else set(arena.data.graph.export().iter_rows())


def _over_people(arena: Arena, user: int) -> set[tuple[str, ...]]:
    """The hops to somebody, who is not named, and on: (relation, item) that one of those people touched."""
    ties, past = () if arena.data.graph is None else ties_of(arena.data.graph), arena.board.past
    walks = {tie.relation: sp.csr_matrix(tie.matrix[user]) @ past.matrix() for tie in ties}
    return {(name, past.items[int(i)]) for name, row in walks.items() for i in row.indices}


def _count(tally: Tally, paths: list[PathReason], score: float) -> None:
    tally.items += 1
    tally.bare += not paths
    tally.paths += min(SHOWN, len(paths))
    tally.counts.append(len(paths))
    tally.shares.append(sum(p.share for p in paths[:SHOWN]))
    tally.errors.append(abs(sum(p.score for p in paths) - score) / score)


def _true(
    path: PathReason,
    item: str,
    touched: set[str],
    person: str,
    edges: set[tuple[str, ...]],
    over: set[tuple[str, ...]],
) -> bool:
    first, *rest = path.hops
    nodes = [first.head, *(hop.tail for hop in path.hops)]
    begins = first.tail in touched or (person, first.relation, first.tail) in edges
    joined = all(a.tail == b.head for a, b in zip(path.hops, rest, strict=False))
    walked = all((hop.head, hop.relation, hop.tail) in edges for hop in rest)
    if first.tail == SOMEONE:
        begins = walked = (first.relation, item) in over
    product = float(np.prod([hop.weight for hop in path.hops]))
    simple = len(set(nodes)) == len(nodes) and nodes[0] == VISITOR and nodes[-1] == item
    return begins and joined and walked and simple and abs(product - path.score) <= 1e-9 * path.score


def _falls(
    model: PathReasoner, query: Queries, item: int, excluded: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[float, float]:
    """Places the item falls without the edges of its best paths, and without those of others."""
    frontier = model._frontier(query)
    found, sums = best_paths(frontier, np.array([item]), EVERY), frontier.sums
    best = np.arange(min(SHOWN, len(found.score)))
    others = _alike(found, best, _degrees(model, found), rng)
    ranks = [
        _rank(_without(model, found, rows, item, sums), item, excluded) for rows in (best[:0], best, others)
    ]
    return float(ranks[1] - ranks[0]), float(ranks[2] - ranks[0])


def _degrees(model: PathReasoner, found: Found) -> NDArray[np.int64]:
    """[P]: how many items the last node before the item leads to."""
    degree = np.zeros(len(found.score), np.int64)
    for number, start in enumerate(model._starts):
        mine = np.flatnonzero(found.leg == number)
        matrix, node = (
            (start.leg.matrix, found.start)
            if isinstance(start.leg, EdgeLeg)
            else (start.leg.back, found.facet)
        )
        degree[mine] = np.diff(matrix.indptr)[node[mine]]
    return degree


def _alike(
    found: Found, best: NDArray[np.int64], degree: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """For each shown path another at random: see the top of the file."""
    left = set(range(len(best), len(found.score)))
    chosen: list[int] = []
    for row in best.tolist():
        pool = [r for r in left if found.kind[r] == found.kind[row]] or list(left)
        if pool:
            nearest = sorted(pool, key=lambda r: (abs(int(degree[r] - degree[row])), r))[:NEAREST]
            chosen.append(int(rng.choice(nearest)))
            left.discard(chosen[-1])
    return np.array(chosen, np.int64)


def _without(model: PathReasoner, found: Found, rows: NDArray[np.int64], item: int, sums: Floats) -> Floats:
    """[I]: the sums without every path that uses an edge of the given paths (events stay)."""
    left = sums.copy()
    over = rows[found.kind[rows] != STRAIGHT]
    out = {(int(found.start[r]), int(found.facet[r])): r for r in over}
    into = {int(found.facet[r]) for r in over}
    facets = model._fitted.facets
    for (_, facet), row in out.items():
        assert facets is not None
        cells = slice(int(facets.back.indptr[facet]), int(facets.back.indptr[facet + 1]))
        left[facets.back.indices[cells]] -= found.first[row] * found.second[row] * facets.back.data[cells]
    lost = np.isin(found.facet, list(into)) & (found.kind != STRAIGHT)
    lost[rows[found.kind[rows] == STRAIGHT]] = True
    lost |= [(int(s), int(f)) in out for s, f in zip(found.start, found.facet, strict=True)]
    left[item] = sums[item] - found.score[lost].sum()
    return left


def _rank(scores: Floats, item: int, excluded: NDArray[np.bool_]) -> int:
    return int(((scores > scores[item] + 1e-12) & ~excluded).sum())


def _told(tally: Tally) -> None:
    low, middle, high = np.percentile(tally.shares, [10, 50, 90])
    print(f"{tally.items} items for {len(tally.fall)} people, {tally.paths} paths shown")
    print(
        f"true hops and sums of three: {100 * (1 - len(tally.untrue) / max(1, tally.paths)):.2f} % of paths"
    )
    print(
        f"items without a path: {tally.bare}; hops over test events: {tally.leaks}; answers that differ: {tally.differ}"
    )
    print(f"largest relative error of a sum of all paths: {max(tally.errors):.1e}")
    print(
        f"best three paths carry: median {middle:.2f} (p10 {low:.2f}, p90 {high:.2f}) of a score;"
        f" {np.median(tally.counts):.0f} paths an item (median)"
    )
    low, middle, high = np.percentile(tally.grouped, [10, 50, 90])
    print(f"three groups of paths carry: median {middle:.2f} (p10 {low:.2f}, p90 {high:.2f})")
    low, middle, high = np.percentile(tally.widths or [np.nan], [10, 50, 90])
    print(
        f"{len(tally.widths)} of the groups are facts; as many items share one: median {middle:.0f}"
        f" (p10 {low:.0f}, p90 {high:.0f})"
    )
    fall, random = np.array(tally.fall), np.array(tally.fall_at_random)
    gap = paired_interval(fall, random)
    print(
        f"places an item falls: {fall.mean():.1f} without the shown edges, {random.mean():.1f} without others of equal degree;"
        f" difference {gap.mean:.1f} [{gap.low:.1f}, {gap.high:.1f}]"
    )


if __name__ == "__main__":
    main()

"""Edges of many sources as integer columns: names are numbered, repeats dropped, inverse relations merged.

Names are numbered as they come, a chunk at a time, so millions of edges never lie in memory as text. An edge
costs 16 bytes here, and up to 40 more while it is sorted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

SAME_PAIRS = 0.9  # Jaccard of r1 and the reverse of r2 from which they are one relation
FEWEST_PAIRS = 5  # below that, a reverse can be chance


class Names:
    """A growing numbered set of texts. About 200 bytes each.

    A dictionary and no column: a column of texts keeps the whole block alive that they were read in.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def to_list(self) -> list[str]:
        """The texts in the order of their numbers."""
        return list(self._numbers)

    def add(self, texts: pl.Series) -> NDArray[np.int32]:
        """The number of each text; new ones get the next numbers. O(texts)."""
        numbers = self._numbers
        found = (numbers.setdefault(text, len(numbers)) for text in texts.to_list())
        return np.fromiter(found, np.int32, len(texts))


@dataclass(frozen=True)
class Edges:
    """M edges in numbers: head, tail, row int32; relation, source uint16."""

    head: NDArray[np.int32]
    relation: NDArray[np.uint16]
    tail: NDArray[np.int32]
    source: NDArray[np.uint16]
    row: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.head)

    @classmethod
    def joined(cls, parts: Sequence[Edges]) -> Edges:
        if not parts:
            none, small = np.zeros(0, np.int32), np.zeros(0, np.uint16)
            return cls(none, small, none, small, none)
        if len(parts) == 1:
            return parts[0]
        columns = ("head", "relation", "tail", "source", "row")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))

    def take(self, places: NDArray[np.integer] | NDArray[np.bool_]) -> Edges:
        return Edges(
            self.head[places], self.relation[places], self.tail[places], self.source[places], self.row[places]
        )

    def distinct(self) -> Edges:
        """The first of each (head, relation, tail), in the order they came. O(M log M)."""
        order = order_by(self.head, self.relation, self.tail)
        head, relation, tail = self.head[order], self.relation[order], self.tail[order]
        new = np.ones(len(order), bool)
        new[1:] = (head[1:] != head[:-1]) | (relation[1:] != relation[:-1]) | (tail[1:] != tail[:-1])
        return self.take(np.sort(order[new]))

    def turned(self, inverses: Mapping[int, int]) -> Edges:
        """Edges of the relations `inverses` turned around and renamed."""
        if not inverses:
            return self
        last = max(int(self.relation.max(initial=0)), *inverses, *inverses.values())
        names = np.arange(last + 1, dtype=np.uint16)
        names[list(inverses)] = list(inverses.values())
        turn = np.isin(self.relation, list(inverses))
        head, tail = np.where(turn, self.tail, self.head), np.where(turn, self.head, self.tail)
        return Edges(head, names[self.relation], tail, self.source, self.row)


def order_by(
    first: NDArray[np.integer], second: NDArray[np.integer], third: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Places sorted by (first, second, third), equal ones as they came; numbers from 0 up. O(M log M)."""
    sizes = [int(column.max(initial=0)) + 1 for column in (first, second, third)]
    if sizes[0] * sizes[1] * sizes[2] >= 1 << 63:  # as Python numbers, which do not overflow
        return np.lexsort((third, second, first))
    key = first.astype(np.int64)
    for column, size in ((second, sizes[1]), (third, sizes[2])):
        key *= size
        key += column
    return np.argsort(key, kind="stable")


def inverse_relations(edges: Edges, names: Sequence[str]) -> dict[int, int]:
    """{relation: the relation it is the reverse of}, from distinct edges alone.

    Two relations are one where the pairs of one, turned around, are those of the other (Jaccard >= 0.9, at
    least 5 pairs); the larger one stays, at a tie the alphabetically first. Relations that are their own
    reverse take no part. O(M log M).
    """
    sizes = np.bincount(edges.relation, minlength=len(names))
    shared = _shared_with_reverse(edges, len(names))
    own = {r for r in range(len(names)) if sizes[r] and shared[r, r] == sizes[r]}
    pairs = [
        (int(shared[a, b]), names[a], int(a), int(b))
        for a, b in np.argwhere(shared >= FEWEST_PAIRS)
        if a != b and not {a, b} & own
    ]
    found: dict[int, int] = {}
    for count, _, a, b in sorted(pairs, key=lambda pair: (-pair[0], pair[1])):
        taken = found.keys() | set(found.values())
        if count / (sizes[a] + sizes[b] - count) < SAME_PAIRS or {a, b} & taken:
            continue
        kept, turned = sorted((a, b), key=lambda r: (-sizes[r], names[r]))
        found[turned] = kept
    return found


def _shared_with_reverse(edges: Edges, relations: int) -> NDArray[np.int64]:
    """[R, R] for how many edges of a relation another one has the edge the other way round."""
    width = int(max(edges.head.max(initial=0), edges.tail.max(initial=0))) + 1
    forward = edges.head.astype(np.int64) * width + edges.tail
    order = np.argsort(forward, kind="stable")
    forward, relation = forward[order], edges.relation[order]
    backward = edges.tail.astype(np.int64) * width + edges.head
    order = np.argsort(backward, kind="stable")  # looked up in order, or each look is a cache miss
    backward = backward[order]
    first = np.searchsorted(forward, backward)
    counts = np.searchsorted(forward, backward, side="right") - first
    some = np.flatnonzero(counts)
    counts, first, some = counts[some], first[some], order[some]
    place = np.arange(int(counts.sum())) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    pair = np.repeat(edges.relation[some].astype(np.int64), counts) * relations + relation[place]
    return np.bincount(pair, minlength=relations**2).reshape(relations, relations)

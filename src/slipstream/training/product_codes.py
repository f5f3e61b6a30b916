"""Product codes: eight bytes an item, each the number of a centroid; two centroids add up to a quarter of it.

The columns of the table are cut into four parts. The rows of each part are clustered by k-means into 256, and
what the nearest centroid leaves of them once more; a part becomes the sum of its two centroids.

Source: product quantisation (Jégou, Douze, Schmid 2011, section II.B) of residuals (Chen, Guan, Wang 2010);
for item tables of recommenders RecJPQ (Petrov & Macdonald 2024); seeding of Arthur & Vassilvitskii 2007.
Differs: codes come from the trained table, not from a factorisation of the interactions. `transformer_course`
can train the books on with the model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import BadInput
from slipstream.inference.packed_weights import BOOKS, CENTROIDS, LEVELS, PARTS, Packed
from slipstream.randomness import generator

ROUNDS = 20  # of Lloyd's algorithm
LEARNED_FROM = 256 * CENTROIDS  # rows, a seeded sample of a larger table
PART = 1 << 14  # rows that are compared with all centroids at once: 16 MB
Rows = NDArray[np.float32]


def product_codes(values: Rows, *, weight: NDArray[np.floating] | None = None, seed: int = 0) -> Packed:
    """Codes [I, 8] and books [8, 256, C / 4] in float16 of a finite table [I, C]; the same for the same seed.

    weight [I]: how much it matters that a row is met; all alike by default. Books are learned from at most
    LEARNED_FROM rows. O(I · C · 512) time. Raises BadInput for fewer items than a book has centroids.
    """
    items, columns = values.shape
    if items < CENTROIDS:
        raise BadInput(
            f"a catalogue of {items} items is smaller than a code book of {CENTROIDS}",
            hint="int8 or int4 is what fits so few items",
        )
    width = -(-columns // PARTS)
    padded = np.zeros((items, PARTS * width), np.float32)
    padded[:, :columns] = values
    mass = np.ones(items) if weight is None else np.asarray(weight, np.float64)
    codes = np.empty((items, BOOKS), np.uint8)
    books = np.empty((BOOKS, CENTROIDS, width), np.float16)
    left = padded.reshape(items, PARTS, width)  # what the books before have not said
    for book in range(BOOKS):
        part = np.ascontiguousarray(left[:, book // LEVELS])
        random = generator(seed, "product codes", str(book))
        chosen = np.arange(items)
        if items > LEARNED_FROM:
            chosen = np.sort(random.choice(items, LEARNED_FROM, replace=False))
        books[book] = k_means(part[chosen], CENTROIDS, random, weight=mass[chosen])
        centroids = books[book].astype(np.float32)
        codes[:, book] = _nearest(part, centroids)[0]
        left[:, book // LEVELS] -= centroids[codes[:, book]]
    return Packed("codes", codes, books, columns)


def k_means(
    rows: Rows,
    count: int,
    random: np.random.Generator,
    rounds: int = ROUNDS,
    weight: NDArray[np.float64] | None = None,
) -> Rows:
    """Centroids [count, W]; one that nobody is nearest to moves to the row that is farthest from its own.

    weight [rows]: a centroid is the weighted mean of its rows.
    """
    weight = np.ones(len(rows)) if weight is None else weight
    centres = _seeded(rows, count, random, weight)
    weighted = rows * weight[:, None]
    for _ in range(rounds):
        own, distance = _nearest(rows, centres)
        sizes, mass = np.bincount(own, minlength=count), np.bincount(own, weight, count)
        order, there = np.argsort(own, kind="stable"), mass > 0
        starts = np.cumsum(sizes) - sizes
        sums = np.add.reduceat(weighted[order], starts[there], axis=0, dtype=np.float64)
        centres[there] = sums / mass[there, None]
        lonely = np.flatnonzero(~there)
        centres[lonely] = rows[np.argsort(-distance, kind="stable")[: len(lonely)]]
    return centres


def _seeded(rows: Rows, count: int, random: np.random.Generator, weight: NDArray[np.float64]) -> Rows:
    """k-means++: each next centroid is a row, drawn by its weighted squared distance to the nearest."""
    centres = np.empty((count, rows.shape[1]), np.float32)
    left = np.full(len(rows), np.inf)
    chosen = int(random.integers(len(rows)))
    for n in range(count):
        centres[n] = rows[chosen]
        left = np.minimum(left, ((rows - centres[n]) ** 2).sum(axis=1, dtype=np.float64))
        mass = np.cumsum(left * weight)
        chosen = min(int(np.searchsorted(mass, random.random() * mass[-1], side="right")), len(rows) - 1)
    return centres


def _nearest(rows: Rows, centres: Rows) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Number of the nearest centroid of each row, ties to the lower one, and the squared distance."""
    own, distance = np.empty(len(rows), np.intp), np.empty(len(rows), np.float32)
    sizes = (centres**2).sum(axis=1)
    for start in range(0, len(rows), PART):
        part = rows[start : start + PART]
        scores = sizes - 2 * (part @ centres.T)
        here = own[start : start + PART] = scores.argmin(axis=1)
        distance[start : start + PART] = scores[np.arange(len(part)), here] + (part**2).sum(axis=1)
    return own, distance

"""Product codes: exact for few centroids, close for clusters, refused for what is too small or no number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slipstream.compression.quantization import pack
from slipstream.errors import BadInput, CorruptArtifact
from slipstream.inference.packed_weights import BOOKS, CENTROIDS, LEVELS, PARTS
from slipstream.training.product_codes import k_means, product_codes


def grid(items: int, columns: int, kinds: int, seed: int = 0) -> np.ndarray:
    """Each quarter of a row is one of `kinds` random vectors, with numbers that float16 holds."""
    random = np.random.default_rng(seed)
    width = -(-columns // PARTS)
    books = random.integers(-50, 50, (PARTS, kinds, width)) / 16
    chosen = random.integers(0, kinds, (items, PARTS))
    return books[np.arange(PARTS), chosen].reshape(items, -1)[:, :columns].astype(np.float32)


@pytest.mark.parametrize("columns", [8, 24, 27, 3])
def test_a_table_made_of_centroids_comes_back_as_it_was(columns: int) -> None:
    table = grid(600, columns, 40)
    packed = product_codes(table).checked("items")
    np.testing.assert_array_equal(packed.unpack(), table)
    width = -(-columns // PARTS)
    assert packed.nbytes == 600 * 8 + BOOKS * CENTROIDS * width * 2


def test_a_table_of_clusters_is_close_and_more_so_than_by_chance() -> None:
    random = np.random.default_rng(1)
    table = grid(2_000, 32, 200) + 0.05 * random.standard_normal((2_000, 32)).astype(np.float32)
    packed = product_codes(table)
    off = np.linalg.norm(packed.unpack() - table) / np.linalg.norm(table)
    assert off < 0.06
    shuffled = replace(packed, codes=random.permutation(packed.codes))
    assert np.linalg.norm(shuffled.unpack() - table) > 10 * off * np.linalg.norm(table)


def test_every_row_has_the_centroids_that_are_nearest_one_after_the_other() -> None:
    table = np.random.default_rng(2).standard_normal((300, 16)).astype(np.float32)
    packed = product_codes(table)
    books = packed.scale.astype(np.float64)
    for part in range(PARTS):
        left = table[:, 4 * part : 4 * part + 4].astype(np.float64)
        for book in range(part * LEVELS, (part + 1) * LEVELS):
            distance = ((left[:, None] - books[book][None]) ** 2).sum(axis=2)
            own = distance[np.arange(300), packed.codes[:, book]]
            assert (own <= distance.min(axis=1) + 1e-5).all()
            left -= books[book][packed.codes[:, book]]


def test_rows_that_weigh_more_are_closer_to_what_they_were() -> None:
    table = np.random.default_rng(4).standard_normal((2_000, 16)).astype(np.float32)
    weight = np.where(np.arange(2_000) < 200, 50.0, 1.0)
    off = [((product_codes(table, weight=w).unpack() - table) ** 2).sum(axis=1) for w in (None, weight)]
    assert off[1][:200].mean() < 0.7 * off[0][:200].mean()
    assert off[1][200:].mean() > off[0][200:].mean()


def test_the_same_seed_gives_the_same_codes_and_no_cluster_stays_empty() -> None:
    table = np.random.default_rng(3).standard_normal((500, 8)).astype(np.float32)
    one, other = product_codes(table), product_codes(table)
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.scale, other.scale)
    centres = k_means(table, 100, np.random.default_rng(0))
    own = ((table[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert len(np.unique(own)) >= 99


@pytest.mark.parametrize("rows", [np.zeros((400, 8)), np.ones((400, 8)), np.repeat(np.eye(8), 50, axis=0)])
def test_tables_with_fewer_rows_that_differ_than_centroids_are_exact(rows: np.ndarray) -> None:
    np.testing.assert_array_equal(product_codes(rows.astype(np.float32)).unpack(), rows)


def test_a_catalogue_smaller_than_a_code_book_and_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(BadInput, match="255 items is smaller than a code book of 256"):
        pack(np.ones((255, 8), np.float32), "codes")
    for bad in (np.nan, np.inf, 7e4):
        table = np.ones((300, 8), np.float32)
        table[7, 3] = bad
        with pytest.raises(BadInput, match="not finite or larger"):
            pack(table, "codes")


@pytest.mark.parametrize(
    "broken",
    [
        {"codes": np.zeros((300, 7), np.uint8)},
        {"codes": np.zeros((300, 8), np.int8)},
        {"scale": None},
        {"scale": np.zeros((8, 255, 6), np.float16)},
        {"scale": np.zeros((8, 256, 3), np.float16)},
        {"scale": np.zeros((8, 256, 6), np.float32)},
        {"scale": np.full((8, 256, 6), np.nan, np.float16)},
        {"columns": 16},
        {"columns": 0},
    ],
)
def test_a_code_book_that_does_not_fit_is_refused(broken: dict) -> None:
    packed = product_codes(grid(300, 24, 30)).checked("item")
    with pytest.raises(CorruptArtifact, match="item do not fit their form codes"):
        replace(packed, **broken).checked("item")

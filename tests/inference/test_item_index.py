"""The int8 scan and its NumPy twin give brute force's answer, bit by bit, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_paths import paths

from slipstream.inference.item_index import SCAN, ItemIndex, exact_scores, pack, usable_rows
from slipstream.inference.retriever import NOTHING, top_k_reference

PATHS = paths(SCAN)


def brute_force(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """[Q, I]: the definition, one product at a time."""
    scores = np.full((len(queries), len(vectors)), np.nan, np.float32)
    for q in np.flatnonzero(usable_rows(queries)):
        scores[q] = exact_scores(queries[q], np.nan_to_num(vectors, posinf=0, neginf=0))
    scores[:, ~usable_rows(vectors)] = np.nan
    return scores


def check(
    path: str, vectors: np.ndarray, queries: np.ndarray, k: int, excluded: np.ndarray | None = None
) -> ItemIndex:
    index = ItemIndex(vectors, kernel_choice=path)
    items, scores = index.search(queries, k, excluded=excluded)
    assert items.shape == scores.shape == (len(queries), k)
    for q, expected in enumerate(top_k_reference(brute_force(vectors, queries), k, excluded=excluded)):
        missing = k - len(expected)
        assert items[q].tolist() == [i for i, _ in expected] + [NOTHING] * missing
        assert scores[q].tolist() == [s for _, s in expected] + [-np.inf] * missing
    return index


def table(random: np.random.Generator, items: int, dim: int, form: str, scale: float = 1.0) -> np.ndarray:
    """Vectors that are hard in one way each."""
    x = random.standard_normal((items, dim))
    if form == "ties":
        x = random.integers(-1, 2, (items, dim)).astype(float)
    elif form == "unit":
        x /= np.linalg.norm(x, axis=1, keepdims=True) + 1e-9
    elif form == "tailed":
        x *= np.exp(1.5 * random.standard_normal((items, 1)))
    elif form == "close":  # far closer to each other than a step of int8
        x = x[:1] + 1e-4 * x
    return (scale * x).astype(np.float32)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=60)
@given(
    items=st.integers(0, 150),
    dim=st.integers(1, 70),
    queries=st.integers(0, 11),
    k=st.integers(1, 30),
    form=st.sampled_from(["normal", "ties", "unit", "tailed", "close"]),
    scale=st.sampled_from([1.0, 1e-3, 1e12, 1e-25, 1e-36, 1e-44]),
    odd=st.floats(0, 0.3),
    hidden=st.sampled_from([None, 0.0, 0.5, 0.98, 1.0]),
    one_mask=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_answer_is_that_of_brute_force(
    path: str, items: int, dim: int, queries: int, k: int, form: str, scale: float, odd: float,
    hidden: float | None, one_mask: bool, seed: int,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    vectors = table(random, items, dim, form, scale)
    asked = table(random, queries, dim, "ties" if form == "ties" else "normal")
    spoilt = random.random(items) < odd
    vectors[spoilt, random.integers(dim)] = random.choice([np.nan, np.inf, -np.inf, 1e30])
    vectors[random.random(items) < odd] = 0
    asked[random.random(queries) < odd / 3] = np.nan
    asked[random.random(queries) < odd / 3] = 0
    excluded = None
    if hidden is not None:
        excluded = random.random(items if one_mask else (queries, items)) < hidden
    check(path, vectors, asked, k, excluded)


@pytest.mark.parametrize("path", PATHS)
def test_views_with_strides_are_read_as_they_look(path: str) -> None:
    random = np.random.default_rng(1)
    vectors = np.asfortranarray(table(random, 333, 24, "normal"))[::3, ::2]
    queries = table(random, 24, 24, "normal")[:, ::2].T.copy().T[::5]
    excluded = (random.random((2 * len(queries), 2 * len(vectors))) < 0.5)[::2, ::2]
    check(path, vectors, queries, 7, excluded)


@pytest.mark.parametrize("path", PATHS)
def test_ties_go_by_item_number_though_the_table_is_sorted_by_norm(path: str) -> None:
    """Items that score the same with different norms: the second dimension does not count."""
    vectors = np.ones((500, 2), np.float32)
    vectors[:, 1] = np.random.default_rng(0).permutation(500)
    items, _ = ItemIndex(vectors, kernel_choice=path).search(np.array([[1, 0]], np.float32), 9)
    assert items[0].tolist() == list(range(9))


@pytest.mark.parametrize("path", PATHS)
def test_few_items_are_scored_exactly_and_the_count_is_kept(path: str) -> None:
    random = np.random.default_rng(3)
    index = ItemIndex(table(random, 20_000, 64, "normal"), kernel_choice=path)
    index.search(table(random, 9, 64, "normal"), 10)
    index.search(table(random, 1, 64, "normal"), 10)
    assert index.searched == 10
    assert 10 * 10 <= index.rescored <= 10 * 200


@pytest.mark.parametrize("dim", [1024, 1025])
def test_long_vectors(dim: int) -> None:
    """The largest sums that the kernel may form, and one dimension more, which goes to NumPy."""
    vectors = np.ones((40, dim), np.float32)
    vectors[7] = -1
    check(PATHS[-1], vectors, np.ones((1, dim), np.float32), 40)


@pytest.mark.parametrize("path", PATHS)
def test_unknown_items_are_no_answer(path: str) -> None:
    known = np.array([True, False, True])
    index = ItemIndex(np.ones((3, 4), np.float32), known=known, kernel_choice=path)
    assert index.search(np.ones((1, 4), np.float32), 3)[0].tolist() == [[0, 2, NOTHING]]


@given(
    st.integers(1, 100),
    st.integers(1, 40),
    st.sampled_from(["ties", "unit", "tailed"]),
    st.sampled_from([1, 1e-38]),
    st.integers(0, 2**31),
)
def test_the_bounds_of_the_packed_table_hold(
    items: int, dim: int, form: str, scale: float, seed: int
) -> None:
    vectors = table(np.random.default_rng(seed), items, dim, form, scale)
    packed = pack(vectors, np.ones(items, bool))
    groups = packed.lines.shape[1]
    v = packed.lines.transpose(0, 2, 1, 3).reshape(-1, groups * 4)[:, :dim].astype(float) - 128
    near = v * packed.scale[:, None].astype(float)
    kept = packed.number >= 0
    assert sorted(packed.number[kept]) == list(range(items))
    x = vectors[packed.number[kept]].astype(float)
    block = np.flatnonzero(kept) // 32
    assert (np.linalg.norm(x - near[kept], axis=1) <= packed.error[block]).all()
    assert (np.linalg.norm(near[kept], axis=1) <= packed.size[block]).all()
    for b in range(len(packed.norm)):  # nothing from a block on is longer than its norm
        assert (np.linalg.norm(x[block >= b], axis=1) <= packed.norm[b]).all()


@pytest.mark.skipif(len(PATHS) == 1, reason="the kernels are not built here")
def test_wrong_buffers_are_refused() -> None:
    from slipstream.kernels import kernel

    found = kernel(SCAN)
    assert found is not None
    vectors = np.ones((40, 8), np.float32)
    parts = [*vars(pack(vectors, np.ones(40, bool))).values()]
    opened = found.module.open(*parts, vectors, 40, 8)
    query, items, scores = (
        np.ones((1, 8), np.float32),
        np.empty((1, 5), np.int32),
        np.empty((1, 5), np.float32),
    )
    found.module.search(opened, 0, query, 1, 5, None, items, scores)
    for wrong in (
        (opened, 0, query[:, :7].copy(), 1, 5, None, items, scores),
        (opened, 0, query.astype(np.float64), 1, 5, None, items, scores),
        (opened, 0, query, 1, 6, None, items, scores),
        (opened, 0, query, 1, 5, np.zeros(41, bool), items, scores),
        (opened, 0, query, 0, 5, None, items, scores),
        (opened, 17, query, 1, 5, None, items, scores),
        (opened, 0, query[:, ::2], 1, 5, None, items, scores),
    ):
        with pytest.raises((ValueError, BufferError)):
            found.module.search(*wrong)
    parts[5] = parts[5] + 1  # an item that does not exist
    with pytest.raises(ValueError, match="does not exist"):
        found.module.open(*parts, vectors, 40, 8)

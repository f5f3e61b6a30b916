"""Packed items are read, searched and encoded as if they had been unpacked, bit by bit, in C as in NumPy."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_paths import paths
from test_compiled_encoder import Shape, random_weights

from slipstream.compression.quantization import RUNGS, compressed, mixed, pack
from slipstream.inference.compiled_encoder import ENCODER, encoder_of
from slipstream.inference.item_index import SCAN, ItemIndex
from slipstream.inference.item_rows import ItemRows, rows_of
from slipstream.inference.packed_weights import BOOKS, CENTROIDS, PARTS, Form, Packed

FORMS: tuple[Form, ...] = ("bfloat16", "int8", "int4", "codes", "mixed")


def table(random: np.random.Generator, items: int, dim: int) -> np.ndarray:
    """Tailed norms, some rows of zeros."""
    rows = random.standard_normal((items, dim)) * np.exp(random.standard_normal((items, 1)))
    rows[random.random(items) < 0.1] = 0
    return rows.astype(np.float32)


def packed_as(form: Form, rows: np.ndarray) -> Packed:
    """For product codes any codes and books do: what is tested is how they are read.

    Of mixed rows now and then all are int8, or none.
    """
    if form == "mixed":
        random = np.random.default_rng(rows.size)
        return mixed(rows, random.random(len(rows)) < random.choice([0, 0.5, 1]))
    if form != "codes":
        return pack(rows, form)
    random, columns = np.random.default_rng(len(rows)), rows.shape[1]
    codes = random.integers(0, CENTROIDS, (len(rows), BOOKS)).astype(np.uint8)
    books = random.standard_normal((BOOKS, CENTROIDS, -(-columns // PARTS))).astype(np.float16)
    return Packed("codes", codes, books, columns).checked("items")


@given(st.sampled_from(FORMS), st.integers(0, 40), st.integers(1, 70), st.booleans(), st.integers(0, 2**31))
def test_rows_are_those_of_the_unpacked_table_whatever_the_index(
    form: Form, items: int, dim: int, scaled: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    packed = packed_as(form, table(random, items, dim))
    whole, rows = packed.unpack(), ItemRows(packed)
    if scaled:
        factor = random.random(items).astype(np.float32)
        whole, rows = whole * factor[:, None], ItemRows(packed, factor)
    assert rows.shape == whole.shape
    np.testing.assert_array_equal(rows[:], whole)
    if items:
        index = random.integers(0, items, (3, 2))
        np.testing.assert_array_equal(rows[index], whole[index])
    queries = random.standard_normal((4, dim)).astype(np.float32)
    np.testing.assert_allclose(rows.products(queries), queries @ whole.T, rtol=1e-4, atol=1e-4)


def test_unit_rows_have_the_length_asked_for_and_zeros_stay() -> None:
    rows = ItemRows(pack(table(np.random.default_rng(0), 50, 24), "int8"))
    unit = rows.with_unit_length(20.0)
    there = rows[:].any(axis=1)
    assert 30 < there.sum() < 50
    np.testing.assert_allclose(np.linalg.norm(unit[:], axis=1), np.where(there, 20, 0), rtol=1e-5)


@pytest.mark.parametrize("path", paths(SCAN))
@settings(max_examples=40)
@given(
    form=st.sampled_from(FORMS),
    items=st.integers(0, 150),
    dim=st.integers(1, 70),
    queries=st.integers(1, 10),
    k=st.integers(1, 20),
    scaled=st.booleans(),
    hidden=st.sampled_from([None, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_a_search_of_packed_rows_is_that_of_the_same_numbers_in_float32(
    path: str, form: Form, items: int, dim: int, queries: int, k: int, scaled: bool, hidden: float | None,
    seed: int,
) -> None:  # fmt: skip
    random = np.random.default_rng(seed)
    rows = ItemRows(packed_as(form, table(random, items, dim)))
    rows = rows.with_unit_length(3.0) if scaled else rows
    asked = random.standard_normal((queries, dim)).astype(np.float32)
    asked[random.random(queries) < 0.1] = np.nan
    known = random.random(items) < 0.9
    excluded = None if hidden is None else random.random(items) < hidden
    ours = ItemIndex(rows, known=known, kernel_choice=path)
    theirs = ItemIndex(rows[:], known=known, kernel_choice="numpy")
    for one, other in zip(
        ours.search(asked, k, excluded=excluded), theirs.search(asked, k, excluded=excluded), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12)
    if items and np.isfinite(asked[0]).all():
        some = np.arange(items, dtype=np.int32)[::3]
        np.testing.assert_array_equal(ours.scores(asked[0], some), theirs.scores(asked[0], some))


@pytest.mark.parametrize("path", paths(ENCODER))
@pytest.mark.parametrize("form", FORMS)
def test_an_encoder_looks_up_packed_rows_as_if_they_were_float32(path: str, form: Form) -> None:
    weights = random_weights(Shape(), dtype=np.float32)
    packed = packed_as(form, np.asarray(weights["item"]))
    ours = encoder_of(weights | {"item": rows_of(packed)}, kernel_choice=path, lean=True)
    theirs = encoder_of(weights | {"item": packed.unpack()}, kernel_choice=path)
    random = np.random.default_rng(1)
    item = random.integers(0, packed.count, 40).astype(np.int32)
    time_us = np.sort(random.integers(0, 10**12, 40))
    offsets = np.array([0, 7, 7, 40])
    np.testing.assert_array_equal(ours.encode(offsets, item, time_us), theirs.encode(offsets, item, time_us))
    one, other = ours.prefill(item[:9], time_us[:9]), theirs.prefill(item[:9], time_us[:9])
    for n in range(9, 20):
        step = int(item[n]), int(time_us[n])
        np.testing.assert_array_equal(ours.advance(one, *step), theirs.advance(other, *step))
    np.testing.assert_array_equal(ours.leave_out(item, time_us, 5), theirs.leave_out(item, time_us, 5))


@pytest.mark.skipif(len(paths(SCAN)) == 1, reason="the kernels are not built here")
def test_wrong_tables_are_refused() -> None:
    from slipstream.inference.item_index import pack as search_copy
    from slipstream.kernels import kernel

    found = kernel(SCAN)
    assert found is not None
    vectors = np.ones((40, 8), np.float32)
    copy = vars(search_copy(vectors, np.ones(40, bool))).values()
    codes, scale = np.ones((40, 8), np.int8), np.ones(40, np.float32)
    found.module.open(*copy, codes, 40, 8, 2, scale, None)
    form, place, parts, _ = ItemRows(mixed(vectors, np.arange(40) % 3 == 0)).for_kernel()
    found.module.open(*copy, place, 40, 8, form, parts, None)
    for wrong in (
        (codes, 40, 8, 2, None, None),
        (codes, 40, 8, 2, scale[1:], None),
        (codes, 40, 8, 2, scale, scale[1:]),
        (codes, 40, 8, 2, scale.astype(np.float64), None),
        (codes[1:], 40, 8, 2, scale[1:], None),
        (codes.ravel()[1:], 40, 8, 2, scale, None),
        (codes, 40, 8, 4, scale, None),
        (codes, 40, 8, 5, scale, None),
        (codes, 40, 8, -1, scale, None),
        (codes, 40, 8, 0, None, None),
        (vectors, 40, 8, 0, scale, None),
        (codes.astype(np.uint16), 40, 8, 3, scale, None),
        *mixed_and_wrong(),
    ):
        with pytest.raises((ValueError, BufferError)):
            found.module.open(*copy, *wrong)


def mixed_and_wrong() -> list[tuple]:
    """Tables of mixed rows that do not fit together."""
    packed = mixed(np.ones((40, 8), np.float32), np.arange(40) % 3 == 0)
    form, place, parts, _ = ItemRows(packed).for_kernel()
    beyond, below = place.copy(), place.copy()
    beyond[0], below[1] = 14, -27
    wrong = [
        (place, parts[:3]),
        (place, list(parts)),
        (place, None),
        (place[1:], parts),
        (place.astype(np.int64), parts),
        (beyond, parts),
        (below, parts),
    ]
    wrong += [(place, (*parts[:n], parts[n][1:], *parts[n + 1 :])) for n in range(4)]
    return [(codes, 40, 8, form, both, None) for codes, both in wrong]


ITEMS, DIM = 6_000, 32


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer with a large table, saved in each form."""
    from slipstream.artifacts import writing
    from slipstream.models.deep.transformer import Transformer
    from slipstream.models.registry import save_model
    from slipstream.training.transformer_settings import TransformerSettings

    weights = random_weights(Shape(dim=DIM, items=8), dtype=np.float32)
    weights["item"] = table(np.random.default_rng(0), ITEMS, DIM)
    own = TransformerSettings(dim=DIM, output="cosine")
    model = Transformer(own, encoder_of(weights, cosine=True), np.ones(ITEMS, bool))
    place = tmp_path_factory.mktemp("large")
    for rung in RUNGS:
        with writing(place / rung.name, "model") as writer:
            save_model("transformer", compressed(model, rung, np.arange(ITEMS)), writer)
    return place


@pytest.mark.parametrize("name", [rung.name for rung in RUNGS])
def test_resident_bytes_are_what_opening_and_answering_leave_in_memory(large: Path, name: str) -> None:
    """Of what Python's allocator sees; the kernel's own copy of the layers is beside it."""
    from slipstream.artifacts import open_artifact
    from slipstream.dataset.queries import query_of
    from slipstream.models.registry import load_model

    load_model(open_artifact(large / name, "model"))[1].index()  # modules, caches
    tracemalloc.start()
    model = load_model(open_artifact(large / name, "model"))[1]
    model.index().search(model.query_vectors(query_of([3, 4])), 10)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    resident = model.resident_bytes() - model.encoder.kernel_bytes
    assert abs(held - resident) < 0.03 * resident + 60_000
    table_bytes = 4 * ITEMS * DIM
    if name in ("int8", "mixed", "int4", "codes"):
        assert resident < table_bytes  # with the search copy: nowhere is the table float32

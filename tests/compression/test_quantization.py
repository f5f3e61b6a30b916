"""Packed weights: how far off, how many bytes, and that a model is what they unpack to."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slipstream.compression.quantization import POPULAR, RUNGS, compressed, mixed, pack, popular
from slipstream.errors import BadInput, CorruptArtifact
from slipstream.inference.packed_weights import GROUP, Packed, total_bytes

FEW_ITEMS = RUNGS[:-1]  # those that a catalogue of any size can have

matrices = arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.integers(1, 70)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


def error(values: np.ndarray, packed: Packed) -> np.ndarray:
    back = packed.unpack()
    assert back.dtype == np.float32
    assert back.shape == values.shape
    return np.abs(values.astype(np.float64) - back)


@given(matrices)
def test_bfloat16_keeps_eight_bits_of_each_number(values: np.ndarray) -> None:
    off = error(values, pack(values, "bfloat16"))
    assert (off <= np.abs(values).astype(np.float64) * 2**-8 + 1e-38).all()


def test_bfloat16_rounds_ties_to_even() -> None:
    step = 2.0**-7
    values = np.array([1, 1 + step / 2, 1 + step / 2 + 2**-20, 1 + 1.5 * step, -1 - step / 2], np.float32)
    assert pack(values, "bfloat16").unpack().tolist() == [1, 1, 1 + step, 1 + 2 * step, -1]


@given(matrices, st.booleans())
def test_int8_is_within_half_a_step_of_its_row_or_channel(values: np.ndarray, turned: bool) -> None:
    off = error(values, pack(values, "int8", turned=turned))
    largest = np.abs(values).max(axis=0 if turned else 1, keepdims=True, initial=0).astype(np.float64)
    assert (off <= largest / 254 * 1.0001 + 1e-30).all()


@given(matrices)
def test_int4_is_within_half_a_step_of_its_group(values: np.ndarray) -> None:
    off = error(values, pack(values, "int4"))
    for start in range(0, values.shape[1], GROUP):
        part = np.s_[:, start : start + GROUP]
        largest = np.abs(values[part]).max(axis=1, keepdims=True, initial=0).astype(np.float64)
        assert (off[part] <= largest / 14 * 1.001 + 2**-21).all()


def test_int4_has_its_sixteenths_where_they_belong() -> None:
    """Whole multiples of the scale come back as they were, in order, over the edge of a group."""
    values = np.concatenate([np.arange(-7, 8), np.arange(7, -8, -1), [0, 7, 3, -3]]).astype(np.float32)
    values = np.stack([values, values[::-1]])
    values[:, 32:] = [[3.5, -0.5], [7, -7]]
    packed = pack(values, "int4")
    assert packed.scale is not None
    assert packed.scale.tolist() == [[1, 0.5], [1, 1]]
    np.testing.assert_array_equal(packed.unpack(), values)


@given(matrices, st.data())
def test_mixed_rows_are_those_of_int8_or_int4_whoever_is_popular(values: np.ndarray, data) -> None:
    """Also where all are, or none is, at sizes that are no multiple of anything."""
    often = data.draw(arrays(np.bool_, len(values)) | st.sampled_from([np.ones(len(values), bool)] * 2).map(
        lambda all_: all_ if data.draw(st.booleans()) else ~all_
    ))  # fmt: skip
    packed = mixed(values, often).checked("item")
    both = pack(values, "int8"), pack(values, "int4")
    expected = np.where(often[:, None], both[0].unpack(), both[1].unpack())
    np.testing.assert_array_equal(packed.unpack(), expected)
    np.testing.assert_array_equal(packed.to_read().unpack(), expected)
    share = [part.nbytes // max(len(values), 1) for part in both]
    count = int(often.sum())
    assert packed.nbytes == share[0] * count + share[1] * (len(values) - count) + -(-len(values) // 8)


@given(st.lists(st.integers(0, 5), max_size=40))
def test_the_popular_are_a_fixed_share_and_nobody_else_was_met_more_often(events: list[int]) -> None:
    chosen = popular(np.array(events, np.int64))
    assert chosen.sum() == int(np.ceil(POPULAR * len(events)))
    least = min((events[i] for i in np.flatnonzero(chosen)), default=0)
    assert all(events[i] <= least for i in np.flatnonzero(~chosen))


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 64])
def test_bytes_are_counted_exactly(columns: int) -> None:
    values = np.ones((10, columns), np.float32)
    groups = -(-columns // 32)
    sizes = {
        "float32": 40 * columns,
        "bfloat16": 20 * columns,
        "int8": 10 * (columns + 4),
        "int4": 10 * groups * (16 + 2),
    }
    assert {form: pack(values, form).nbytes for form in sizes} == sizes  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.39e38])
def test_what_is_not_finite_is_refused_and_never_packed(form: str, bad: float) -> None:
    values = np.ones((2, 3), np.float32)
    values[1, 1] = bad
    if form == "float32" and np.isfinite(bad):
        return
    with pytest.raises(BadInput, match="not finite or larger"):
        pack(values, form)  # type: ignore[arg-type]


def test_a_row_of_zeros_stays_zero_beside_a_large_one() -> None:
    values = np.zeros((2, 40), np.float32)
    values[1] = 1e4
    for form in ("bfloat16", "int8", "int4"):
        assert not pack(values, form).unpack()[0].any()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "broken",
    [
        {"codes": np.zeros((3, 4), np.int16)},
        {"scale": None},
        {"scale": np.ones(2, np.float32)},
        {"scale": np.array([1, np.nan, 1], np.float32)},
        {"form": "int4", "columns": 4},
        {"form": "bfloat16"},
    ],
)
def test_parts_that_do_not_fit_together_are_refused(broken: dict) -> None:
    packed = pack(np.ones((3, 4), np.float32), "int8").checked("item")
    with pytest.raises(CorruptArtifact, match="item"):
        replace(packed, **broken).checked("item")


@pytest.mark.parametrize(
    "broken",
    [
        {"codes": np.array([0b0111], np.uint8)},  # more int8 rows than there are
        {"codes": np.array([0b10001], np.uint8)},  # a row beyond the last
        {"codes": np.zeros(2, np.uint8)},
        {"codes": np.array([5], np.int8)},
        {"scale": np.ones(4, np.float32)},
        {"columns": 5},
        {"parts": None},
        {"form": "int8"},
    ],
)
def test_mixed_parts_that_do_not_fit_together_are_refused(broken: dict) -> None:
    packed = mixed(np.ones((4, 4), np.float32), np.array([True, False, True, False])).checked("item")
    with pytest.raises(CorruptArtifact, match="item"):
        replace(packed, **broken).checked("item")
    assert packed.parts is not None
    with pytest.raises(CorruptArtifact, match="item"):
        replace(packed, parts=packed.parts[::-1]).checked("item")


@pytest.fixture(scope="module", params=["dot", "cosine"])
def model(request: pytest.FixtureRequest):
    """A transformer that has learned a little; sizes that are no multiple of anything."""
    pytest.importorskip("torch")
    from slipstream.dataset.snapshot import snapshot_of
    from slipstream.models.deep.transformer import Transformer
    from slipstream.models.recommender import FitContext, TrainingData
    from slipstream.training.transformer_settings import TransformerSettings

    rows = [(f"u{u}", f"i{(u + n) % 13:02}", (u * 99 + n) * 10**6) for u in range(30) for n in range(8)]
    data = snapshot_of(pl.DataFrame(rows, schema=["user_id", "item_id", "time_us"], orient="row"))
    settings = TransformerSettings(
        dim=20, attention_window=8, max_length=20, epochs=2, batch_tokens=128, shards=1, output=request.param,
        query_time=True,
    )  # fmt: skip
    return Transformer.fit(TrainingData(data), settings, FitContext(seed=1)), data


@pytest.mark.parametrize("rung", FEW_ITEMS, ids=lambda rung: rung.name)
def test_a_compressed_model_is_its_unpacked_weights_also_after_a_save(model, rung, tmp_path: Path) -> None:
    from slipstream.artifacts import open_artifact, writing
    from slipstream.dataset.queries import queries_of
    from slipstream.inference.encoder import Encoder
    from slipstream.models.registry import load_model, save_model

    full, data = model
    queries = queries_of(data, np.arange(data.user_count))
    small = compressed(full, rung, data.item_counts)
    plain = Encoder(
        {name: packed.unpack() for name, packed in small.packed.items()},
        ffn=full.settings.ffn,
        cosine=full.settings.output == "cosine",
    )
    vectors = plain.query(plain.encode(queries.offsets, queries.item, queries.time_us))
    table = plain.item
    if plain.cosine:
        table = table / np.linalg.norm(table, axis=1, keepdims=True) / full.settings.temperature
    scores = small.score(queries)
    np.testing.assert_allclose(scores, vectors @ table.T, rtol=1e-4, atol=1e-4)
    if rung.name == "float32":
        np.testing.assert_array_equal(scores, full.score(queries))
    else:
        assert (scores != full.score(queries)).any()
    with writing(tmp_path / "m", "model") as writer:
        save_model("transformer", small, writer)
    artifact = open_artifact(tmp_path / "m", "model")
    _, again = load_model(artifact)
    np.testing.assert_array_equal(again.score(queries), scores)
    assert total_bytes(again.packed) == total_bytes(small.packed)
    inside = artifact.file("encoder.safetensors").stat().st_size - total_bytes(small.packed)
    assert 0 < inside < 8_000  # names and shapes


def test_every_matrix_has_a_role_and_a_rung_is_smaller_than_the_one_before(model) -> None:
    full, data = model
    wide = {name for name, w in full.weights().items() if w.ndim == 2 and "relative_bias" not in name}
    assert set(full.weight_roles()) == wide
    sizes = [total_bytes(compressed(full, rung, data.item_counts).packed) for rung in FEW_ITEMS]
    assert sizes[0] == sum(w.nbytes for w in full.weights().values())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.4 * sizes[0]


def test_a_packed_file_of_an_unknown_form_is_refused(model, tmp_path: Path) -> None:
    from slipstream.artifacts import open_artifact, writing
    from slipstream.models.registry import load_model, save_model

    with writing(tmp_path / "m", "model") as writer:
        save_model("transformer", compressed(model[0], RUNGS[2], model[1].item_counts), writer)
        place = writer.path / "packing.json"
        forms = json.loads(place.read_text())
        forms["item"]["form"] = "int2"
        place.write_text(json.dumps(forms))
    with pytest.raises(CorruptArtifact, match="item of form 'int2'"):
        load_model(open_artifact(tmp_path / "m", "model"))


def test_a_model_whose_training_went_wrong_is_not_packed(model) -> None:
    full, data = model
    weights = {n: pack(w, "float32") for n, w in full.weights().items()}
    bad = np.array(full.weights()["item"])
    bad[3, 1] = np.nan
    broken = full.with_weights(weights | {"item": Packed("float32", bad)})
    for rung in RUNGS[3:5]:
        with pytest.raises(BadInput, match=f"item cannot be packed as {rung.items}"):
            compressed(broken, rung, data.item_counts)

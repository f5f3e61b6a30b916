"""States in int8 between requests: how far off, that nothing drifts, and how many bytes."""

from __future__ import annotations

import numpy as np
import pytest
from encoder_world import Shape, random_weights
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kernel_paths import paths

from slipstream.inference.compiled_encoder import ENCODER, encoder_of
from slipstream.inference.resting import RowsAtRest

rows_of = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 40)),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


def rounded(x: np.ndarray) -> np.ndarray:
    """One vector by definition: the scale as the nearest number of eight significant bits."""
    largest = float(np.abs(x).max())
    if largest < 1e-35:
        return np.zeros_like(x)
    mantissa, exponent = np.frexp(np.float32(np.float32(largest) / 127))
    scale = np.ldexp(np.rint(mantissa * 256) / 256, exponent)
    return np.array([scale * min(max(round(float(np.float32(v) / np.float32(scale))), -127), 127) for v in x])


def back(rows: np.ndarray) -> np.ndarray:
    found = np.full_like(rows, 7)
    RowsAtRest.of(rows).into(found)
    return found


@given(rows_of)
def test_a_row_is_within_half_a_step_and_packing_it_again_changes_nothing(rows: np.ndarray) -> None:
    once = back(rows)
    largest = np.abs(rows).max(axis=1, keepdims=True).astype(np.float64)
    assert (np.abs(once.astype(np.float64) - rows) <= largest / 254 * 1.01 + 1e-30).all()
    np.testing.assert_array_equal(back(once), once)


def test_what_is_not_finite_stays_so_and_zeros_stay_zeros() -> None:
    rows = np.array([[np.nan, 1, 2], [np.inf, 0, -1], [0, 0, 0], [1, 2, 4]], np.float32)
    found = back(rows)
    assert not np.isfinite(found[:2]).any()
    assert not found[2].any()
    assert np.allclose(found[3], rows[3], rtol=0.02)


@pytest.mark.parametrize("path", paths(ENCODER))
@pytest.mark.parametrize("shape", [Shape(), Shape(dim=24, heads=3, layers=3, window=9, ffn="gelu")])
def test_a_state_that_rests_after_each_event_is_one_whose_vectors_are_rounded_once(
    path: str, shape: Shape
) -> None:
    """More events than the ring has slots: old vectors go through the rest some dozen times."""
    encoder = encoder_of(random_weights(shape, dtype=np.float32), kernel_choice=path)
    random = np.random.default_rng(4)
    state, reference, exact = encoder.start(), encoder.start(), encoder.start()
    slots, furthest = reference.keys.shape[1], 0.0
    for n in range(4 * slots):
        event = int(random.integers(shape.items)), n * 10**8
        vector = encoder.advance(state, *event)
        np.testing.assert_array_equal(encoder.advance(reference, *event), vector)
        furthest = max(furthest, float(np.abs(encoder.advance(exact, *event) - vector).max()))
        for layer in range(shape.layers):
            for array in (reference.keys, reference.values):
                array[layer, n % slots] = rounded(array[layer, n % slots])
        state = state.at_rest().awake()
        np.testing.assert_array_equal(state.keys, reference.keys)
        np.testing.assert_array_equal(state.values, reference.values)
    assert 0 < furthest < 0.1  # the vectors themselves are of about 1


@pytest.mark.parametrize("path", paths(ENCODER))
def test_at_rest_it_takes_a_byte_and_a_bit_for_each_number(path: str) -> None:
    shape = Shape(dim=64, heads=4, window=50)
    encoder = encoder_of(random_weights(shape, dtype=np.float32), kernel_choice=path)
    state = encoder.prefill(np.arange(40, dtype=np.int32), np.arange(40))
    resting = state.at_rest()
    vectors = 2 * shape.layers * state.keys.shape[1]
    assert resting.nbytes == vectors * (64 + 2)
    assert resting.nbytes < 0.27 * state.nbytes
    again = resting.awake()
    assert type(again) is type(state)
    assert again.nbytes == state.nbytes
    assert (again.count, again.last_us) == (40, 39)
    np.testing.assert_array_equal(again.vector, state.vector)

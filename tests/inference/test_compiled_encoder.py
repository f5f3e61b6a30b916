"""The encoder in C is the NumPy encoder: every body it knows, every instruction set, float32 and float64."""

from __future__ import annotations

import numpy as np
import pytest
from encoder_world import Life, Shape, live, random_weights
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_paths import paths

from slipstream.inference.compiled_encoder import ENCODER, LATEST, CompiledEncoder, RingState, encoder_of
from slipstream.inference.encoder import Encoder, EncoderState

PATHS = paths(ENCODER)
COMPILED = PATHS[1:]
TOLERANCE = {np.float64: 1e-10, np.float32: 2e-5}  # of vectors whose numbers are of the order of 1
# The norm of two or three almost equal numbers magnifies float32's rounding without bound, NumPy's as well.
FLOAT32_DIM = 6

if not COMPILED:
    COMPILED = [pytest.param("auto", marks=pytest.mark.skip(reason="the kernels are not built here"))]

shapes = st.builds(
    lambda heads, size, **more: Shape(dim=heads * size, heads=heads, **more),
    heads=st.integers(1, 5),
    size=st.integers(1, 20),
    layers=st.integers(1, 3),
    window=st.integers(2, 40),
    inner=st.integers(1, 70),
    ffn=st.sampled_from(["silu", "gelu", "swiglu"]),
    gated=st.booleans(),
    bins=st.sampled_from([0, 24]),
)


def both(shape: Shape, path: str, dtype: type) -> tuple[Encoder, Encoder]:
    """NumPy in float64, and C, with the same weights."""
    assume(dtype is np.float64 or shape.dim >= FLOAT32_DIM)
    weights = random_weights(shape, 1, dtype)
    compiled = encoder_of(weights, ffn=shape.ffn, kernel_choice=path)
    assert isinstance(compiled, CompiledEncoder)
    return Encoder(widened(weights), ffn=shape.ffn), compiled


def widened(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value.astype(np.float64) for name, value in weights.items()}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("path", COMPILED)
@settings(max_examples=25)
@given(shape=shapes, lengths=st.lists(st.integers(0, 90), min_size=1, max_size=9), seed=st.integers(0, 2**31))
def test_a_batch_of_whole_histories(
    path: str, dtype: type, shape: Shape, lengths: list[int], seed: int
) -> None:
    plain, compiled = both(shape, path, dtype)
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    item = random.integers(0, shape.items, offsets[-1]).astype(np.int32)
    times = [None, np.sort(random.integers(0, 10**12, offsets[-1]))]
    for time_us in times:
        expected = plain.encode(offsets, item, time_us)
        np.testing.assert_allclose(compiled.encode(offsets, item, time_us), expected, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("path", COMPILED)
@settings(max_examples=15)
@given(shape=shapes, length=st.integers(1, 90), latest=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_states_and_variants_are_those_of_numpy(
    path: str, dtype: type, shape: Shape, length: int, latest: int, seed: int
) -> None:
    plain, compiled = both(shape, path, dtype)
    random = np.random.default_rng(seed)
    item = random.integers(0, shape.items, length).astype(np.int32)
    time_us = np.cumsum(random.integers(0, 10**9, length))
    expected, found = plain.prefill(item, time_us), compiled.prefill(item, time_us)
    for _ in range(2):  # after the whole history, and after one more event
        np.testing.assert_allclose(found.vector, expected.vector, atol=TOLERANCE[dtype])
        for name in ("keys", "values"):
            theirs, ours = in_window(expected, name, shape.window), in_window(found, name, shape.window)
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE[dtype], err_msg=name)
        assert (found.count, found.last_us) == (expected.count, expected.last_us)
        for encoder, state in ((plain, expected), (compiled, found)):
            encoder.advance(state, 7, int(time_us[-1]) + 10**7)
    latest = min(latest, length)
    np.testing.assert_allclose(
        compiled.leave_out(item, time_us, latest),
        plain.leave_out(item, time_us, latest),
        atol=TOLERANCE[dtype],
    )


def in_window(state: EncoderState, name: str, window: int) -> np.ndarray:
    """Keys or values of the events that the next one sees, the oldest first."""
    ring: np.ndarray = getattr(state, name)
    return ring[:, np.arange(max(0, state.count - window + 1), state.count) % ring.shape[1]]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("path", COMPILED)
@settings(max_examples=40)
@given(
    shape=shapes,
    before=st.integers(0, 90),
    steps=st.integers(0, 60),
    latest=st.integers(2, LATEST),
    asked=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    timed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_events_are_left_out_of_a_living_state(
    path: str,
    dtype: type,
    shape: Shape,
    before: int,
    steps: int,
    latest: int,
    asked: float,
    timed: bool,
    seed: int,
) -> None:
    """Whatever was asked before, and however often."""
    plain, compiled = both(shape, path, dtype)
    random = np.random.default_rng(seed)
    length = before + steps
    latest = min(latest, length)
    item = random.integers(0, shape.items, length).astype(np.int32)
    time_us = np.cumsum(random.choice([0, 1, 10**6, 10**9], length)) if timed else None
    state = compiled.prefill(item[:before], None if time_us is None else time_us[:before])
    for n in range(before, length):
        now = n + 1
        compiled.advance(state, int(item[n]), None if time_us is None else int(time_us[n]))
        if now > 1 and random.random() < asked:
            known_us = None if time_us is None else time_us[:now]
            compiled.leave_out_of(state, item[:now], known_us, min(now, int(random.integers(2, LATEST + 1))))
    ring = state.ring.copy() if isinstance(state, RingState) else None
    for _ in range(2 if latest else 0):
        np.testing.assert_allclose(
            compiled.leave_out_of(state, item, time_us, latest),
            plain.leave_out(item, time_us, latest),
            atol=TOLERANCE[dtype],
        )
    np.testing.assert_array_equal(state.ring, ring)


@pytest.mark.parametrize("path", PATHS)
def test_a_life_of_a_state_equals_full_recomputation(path: str) -> None:
    for seed in range(60):
        shape = Shape(window=2 + seed % 6, layers=1 + seed % 3, bins=24 * (seed % 2), gated=seed % 5 == 0)
        weights = random_weights(shape, seed)
        live(encoder_of(weights, kernel_choice=path), Encoder(weights), seed, 1e-10)


@pytest.mark.parametrize("path", COMPILED)
def test_the_same_life_in_float32(path: str) -> None:
    for seed in range(40):
        shape = Shape(dim=32, window=3 + seed % 20, layers=1 + seed % 3)
        weights = random_weights(shape, seed, np.float32)
        oracle = Encoder(widened(weights))
        live(encoder_of(weights, kernel_choice=path), oracle, seed, TOLERANCE[np.float32])


@pytest.mark.slow
def test_ten_thousand_lives() -> None:
    for seed in range(10_000):
        shape = Shape(window=2 + seed % 6, layers=1 + seed % 3, bins=24 * (seed % 2))
        weights = random_weights(shape, seed % 50)
        live(encoder_of(weights), Encoder(weights), seed, 1e-10)


class EndAnchored(Encoder):
    """Wrong on purpose: positions are counted from the end, so every event moves all of them."""

    def _input(self, item: np.ndarray, gap: np.ndarray | None) -> np.ndarray:
        x = super()._input(item, gap)
        return x + np.arange(x.shape[-2])[::-1, None] * self.item[0] if x.ndim == 3 else x


class LookAhead(Encoder):
    """Wrong on purpose: an event sees the time until the next one, which its state cannot know."""

    def _gaps(self, offsets: np.ndarray, time_us: np.ndarray | None, size: int) -> np.ndarray | None:
        gaps = super()._gaps(offsets, time_us, size)
        if gaps is not None:
            gaps = np.roll(gaps, -1)
            gaps[offsets[1:] - 1] = 0
        return gaps


@pytest.mark.parametrize("wrong", [EndAnchored, LookAhead])
def test_an_encoder_that_cannot_be_advanced_is_caught(wrong: type[Encoder]) -> None:
    encoder = wrong(random_weights(Shape()))
    caught = 0
    for seed in range(10):
        try:
            live(encoder, encoder, seed, 1e-3)
        except AssertionError:
            caught += 1
    assert caught == 10


@pytest.mark.parametrize("path", PATHS)
def test_a_state_that_was_put_back_wrongly_is_caught(path: str) -> None:
    """The comparison is sharp enough to see a ring that is one slot off."""
    encoder = encoder_of(random_weights(Shape()), kernel_choice=path)
    life = Life(encoder, np.random.default_rng(0))
    for _ in range(3):
        life.append_several()
    life.state.count += 1
    life.append()
    whole = encoder.encode(np.array([0, len(life.items)]), *life.history())[0]
    assert life.state.vector is not None
    assert np.abs(life.state.vector - whole).max() > 1e-3


def test_what_c_does_not_know_goes_to_numpy() -> None:
    unequal = random_weights(Shape(layers=2))
    unequal["layer.1.relative_bias"] = unequal["layer.1.relative_bias"][:, :4]
    assert type(encoder_of(unequal)) is Encoder
    assert type(encoder_of(random_weights(Shape(), dtype=np.float16))) is Encoder
    assert type(encoder_of(random_weights(Shape()), kernel_choice="numpy")) is Encoder


@pytest.mark.parametrize("path", COMPILED)
def test_a_state_of_numpy_can_be_advanced_too(path: str) -> None:
    weights = random_weights(Shape())
    plain, compiled = Encoder(weights), encoder_of(weights, kernel_choice=path)
    state, twin = plain.prefill(np.arange(9, dtype=np.int32)), plain.prefill(np.arange(9, dtype=np.int32))
    np.testing.assert_allclose(compiled.advance(state, 3), plain.advance(twin, 3), atol=1e-12)


@pytest.mark.parametrize("path", COMPILED)
def test_what_is_outside_the_tables_or_buffers_is_refused(path: str) -> None:
    encoder = encoder_of(random_weights(Shape(items=5)), kernel_choice=path)
    assert isinstance(encoder, CompiledEncoder)
    state = encoder.start()
    for item in (5, -1):
        with pytest.raises(IndexError):
            encoder.advance(state, item)
    assert state.count == 0
    with pytest.raises(IndexError):
        encoder.encode(np.array([0, 2]), np.array([0, 5], np.int32), None)
    for offsets in ([0, 3], [0, 2, 1], [-1, 2]):
        with pytest.raises((ValueError, IndexError)):
            encoder.encode(np.array(offsets), np.array([0, 1], np.int32), None)
    lived, three = encoder.prefill(np.arange(3, dtype=np.int32)), np.arange(3, dtype=np.int32)
    with pytest.raises(IndexError):
        encoder.leave_out_of(lived, three + 3, None, 3)
    right = encoder.leave_out_of(lived, three, None, 3)  # a refused call has left nothing behind
    np.testing.assert_allclose(right, encoder.leave_out(three, None, 3), atol=1e-6)
    assert lived.left_out is not None
    lived.left_out.count, lived.left_out.own = 0, lived.left_out.own[:-1]
    with pytest.raises((ValueError, BufferError)):
        encoder.leave_out_of(lived, three, None, 3)
    state.ring = state.ring[:, :, :-1]
    with pytest.raises((ValueError, BufferError)):
        encoder.advance(state, 1)

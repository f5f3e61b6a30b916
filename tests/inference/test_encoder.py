"""The numpy encoder: equal to the torch network, and one event at a time equal to the whole history."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import CorruptArtifact
from slipstream.inference.encoder import Encoder, gap_bin, gap_bins_of

ITEMS, DIM, HEADS, WINDOW, BINS = 23, 16, 2, 5, 24


def weights(seed=0, *, layers=2, swiglu=False, gated=False, hstu=False, clock=True, dtype=np.float64):
    random = np.random.default_rng(seed)

    def normal(*shape, mean=0.0):
        return (mean + 0.3 * random.standard_normal(shape)).astype(dtype)

    inner = 4 * DIM
    found = {"item": normal(ITEMS, DIM)}
    if clock:
        found["gap"] = normal(BINS, DIM)
    for name in ("input_norm", "final_norm"):
        found[f"{name}_weight"], found[f"{name}_bias"] = normal(DIM, mean=1.0), normal(DIM)
    for n in range(layers):
        layer = {
            "norm1_weight": normal(DIM, mean=1.0), "norm1_bias": normal(DIM),
            "qkv_weight": normal(DIM, 3 * DIM), "qkv_bias": normal(3 * DIM),
            "relative_bias": normal(HEADS, WINDOW),
            "out_weight": normal(DIM, DIM), "out_bias": normal(DIM),
            "norm2_weight": normal(DIM, mean=1.0), "norm2_bias": normal(DIM),
            "ffn_in_weight": normal(DIM, 2 * inner if swiglu else inner),
            "ffn_in_bias": normal(2 * inner if swiglu else inner),
            "ffn_out_weight": normal(inner, DIM), "ffn_out_bias": normal(DIM),
        }  # fmt: skip
        if hstu:
            layer = {name: w for name, w in layer.items() if not name.startswith(("qkv", "ffn"))}
            layer |= {"qkvu_weight": normal(DIM, 4 * DIM), "qkvu_bias": normal(4 * DIM)}
        if gated:
            layer |= {"gate1_weight": normal(DIM, DIM), "gate1_bias": normal(DIM)}
            layer |= {"gate2_weight": normal(DIM, DIM), "gate2_bias": normal(DIM)}
        found |= {f"layer.{n}.{name}": value for name, value in layer.items()}
    return found


def one(encoder, item, time_us):
    offsets = np.array([0, len(item)], np.int64)
    return encoder.encode(offsets, item, time_us)[0]


events = st.lists(
    st.tuples(st.integers(0, ITEMS - 1), st.sampled_from([0, 0, 10**5, 10**6, 10**9, 10**12, -50])),
    min_size=1,
    max_size=40,
)


bodies = st.sampled_from(
    [
        {}, {"swiglu": True}, {"gated": True}, {"swiglu": True, "gated": True}, {"hstu": True},
        {"hstu": True, "gated": True},
    ]
)  # fmt: skip


def encoder_of(body, **more):
    return Encoder(weights(1, **body, **more), ffn="swiglu" if body.get("swiglu") else "silu")


@given(events, st.integers(1, 3), bodies, st.booleans(), st.integers(0, 40))
@settings(deadline=None, max_examples=80)
def test_appending_one_at_a_time_equals_the_whole_history(script, layers, body, clock, prefilled):
    """Ties, events out of order and rings that wrap many times; the first part may come by prefill."""
    encoder = encoder_of(body, layers=layers, clock=clock)
    item = np.array([i for i, _ in script], np.int32)
    time_us = np.cumsum([gap for _, gap in script]).astype(np.int64) + 10**15
    prefilled = min(prefilled, len(item))
    state = encoder.prefill(item[:prefilled], time_us[:prefilled])
    if prefilled:
        np.testing.assert_allclose(
            state.vector, one(encoder, item[:prefilled], time_us[:prefilled]), atol=1e-10
        )
    for n in range(prefilled, len(item)):
        vector = encoder.advance(state, int(item[n]), int(time_us[n]))
        whole = one(encoder, item[: n + 1], time_us[: n + 1])
        np.testing.assert_allclose(vector, whole, rtol=0, atol=1e-10)
        ours, theirs = encoder.item @ vector, encoder.item @ whole
        assert np.argsort(-ours, kind="stable").tolist() == np.argsort(-theirs, kind="stable").tolist()


@given(events, st.integers(1, 12), bodies, st.booleans())
@settings(deadline=None, max_examples=40)
def test_leaving_out_one_event_equals_the_history_without_it(script, latest, body, clock):
    encoder = encoder_of(body, clock=clock)
    item = np.array([i for i, _ in script], np.int32)
    time_us = np.cumsum([gap for _, gap in script]).astype(np.int64) + 10**15
    latest = min(latest, len(item))
    vectors = encoder.leave_out(item, time_us, latest)
    np.testing.assert_allclose(vectors[0], one(encoder, item, time_us), rtol=0, atol=1e-10)
    for row, event in enumerate(range(len(item) - latest, len(item)), start=1):
        kept = np.arange(len(item)) != event
        expected = one(encoder, item[kept], time_us[kept])
        np.testing.assert_allclose(vectors[row], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("body", [{}, {"gated": True}, {"hstu": True}])
def test_events_beyond_the_receptive_field_do_not_matter_and_the_edge_does(body):
    encoder = encoder_of(body)
    field = encoder.receptive_field
    item = np.random.default_rng(0).integers(0, ITEMS, field + 6).astype(np.int32)
    time_us = np.arange(len(item)) * 10**7
    base = one(encoder, item, time_us)
    for change, matters in ((-field, True), (-field - 1, False), (0, False)):
        other = item.copy()
        other[change] = (other[change] + 1) % ITEMS
        assert (np.abs(one(encoder, other, time_us) - base).max() > 1e-12) == matters


@pytest.mark.parametrize("body", [{}, {"hstu": True}])
def test_a_batch_equals_one_by_one_and_empty_histories_are_zero(body):
    encoder = encoder_of(body)
    random = np.random.default_rng(2)
    lengths = np.array([3, 0, 40, 1, 9, 9, 17, 0, 2])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    item = random.integers(0, ITEMS, offsets[-1]).astype(np.int32)
    time_us = np.sort(random.integers(0, 10**12, offsets[-1]))
    together = encoder.encode(offsets, item, time_us)
    for q in range(len(lengths)):
        part = slice(offsets[q], offsets[q + 1])
        np.testing.assert_allclose(together[q], one(encoder, item[part], time_us[part]), atol=1e-12)
    assert (together[lengths == 0] == 0).all()


@given(st.lists(st.integers(-10, 10**14), min_size=1, max_size=30))
def test_gap_bins_of_many_equal_one_by_one(gaps):
    times = np.cumsum(gaps).astype(np.int64)
    many = gap_bins_of(times, np.array([0, len(times)]), BINS)
    alone = [gap_bin(None if n == 0 else int(times[n] - times[n - 1]), BINS) for n in range(len(times))]
    assert many.tolist() == alone


def test_training_and_inference_agree_on_the_gap_bins():
    pytest.importorskip("torch")
    from slipstream.training.packing import GAP_BINS, gap_bins

    random = np.random.default_rng(0)
    times = np.cumsum(10 ** random.uniform(0, 14, 500)).astype(np.int64)
    times[5] = times[4]
    offsets = np.array([0, 100, 100, 500])
    assert (gap_bins(times, offsets) == gap_bins_of(times, offsets, GAP_BINS)).all()


@pytest.mark.parametrize(
    "body",
    [
        {"ffn": "silu"},
        {"ffn": "gelu"},
        {"ffn": "swiglu"},
        {"ffn": "swiglu", "residual": "gated"},
        {"body": "hstu"},
        {"body": "hstu", "residual": "gated"},
    ],
)
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("clock", [False, True])
def test_the_encoder_equals_the_torch_network(body, cosine, clock):
    torch = pytest.importorskip("torch")
    from slipstream.training.dropout import MaskPool
    from slipstream.training.transformer_network import Dropout, NetworkShape, TransformerNetwork

    shape = NetworkShape(
        items=ITEMS,
        dim=DIM,
        layers=3,
        heads=HEADS,
        window=7,
        **body,
        gap_bins=BINS if clock else 0,
        cosine=cosine,
        query_time=clock,
    )
    network = TransformerNetwork(shape, seed=4).double()
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=stream, dtype=torch.float64))
    off = MaskPool(0.0, torch.float64, stream)
    lengths = [9, 1, 30, 8]  # 48 tokens: three blocks, windows across their edges
    first = torch.repeat_interleave(torch.tensor([0, 9, 10, 40]), torch.tensor(lengths))
    item = torch.randint(ITEMS, (48,), generator=stream)
    time_us = np.sort(np.random.default_rng(0).integers(0, 10**11, 48))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    gap = torch.from_numpy(gap_bins_of(time_us, offsets, BINS)) if clock else None
    wait = torch.randint(BINS, (48,), generator=stream) if clock else None
    with torch.no_grad():
        hidden = network(network.item_table(), item, gap, first, Dropout(off, off), torch.float64, wait)
    encoder = Encoder(network.weights(), ffn=body.get("ffn", "silu"), cosine=cosine)
    last = offsets[1:] - 1
    vectors = encoder.encode(offsets, item.numpy().astype(np.int32), time_us)
    ours = encoder.query(vectors, None if wait is None else wait[last].numpy())
    np.testing.assert_allclose(ours, hidden[last].numpy(), atol=1e-10)


@pytest.mark.parametrize(
    ("name", "hstu"), [("out_bias", False), ("gate2_bias", False), ("qkvu_bias", True), ("gate1_bias", True)]
)
def test_missing_weights_are_named(name, hstu):
    incomplete = weights(gated=True, hstu=hstu)
    del incomplete[f"layer.1.{name}"]
    with pytest.raises(CorruptArtifact, match=name):
        Encoder(incomplete)


def gates_at(bias):
    """The gated weights with every gate at sigmoid(bias), whatever the input."""
    found = weights(1, gated=True)
    gates = [name for name in found if ".gate" in name]
    return found | {n: np.full_like(found[n], bias if n.endswith("bias") else 0.0) for n in gates}


def test_open_gates_are_the_plain_network_and_closed_gates_let_nothing_through():
    item, other = np.array([3, 1, 4], np.int32), np.array([7, 9, 4], np.int32)
    open_gates, closed = Encoder(gates_at(60.0)), Encoder(gates_at(-60.0))
    plain = Encoder({n: w for n, w in open_gates.weights.items() if ".gate" not in n})
    np.testing.assert_allclose(one(open_gates, item, None), one(plain, item, None), atol=1e-12)
    assert np.abs(one(plain, item, None) - one(plain, other, None)).max() > 1e-3
    np.testing.assert_allclose(one(closed, item, None), one(closed, other, None), atol=1e-12)


def test_the_state_has_the_promised_size():
    encoder = Encoder(weights(dtype=np.float32))
    state = encoder.start()
    assert state.keys.nbytes + state.values.nbytes == 2 * encoder.layers * WINDOW * DIM * 4

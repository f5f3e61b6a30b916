"""Banded attention over blocks against the full matrix, and what a token can see."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from slipstream.training.attention import (  # noqa: E402
    attention_reference,
    band_of,
    banded_attention,
    pointwise_attention,
)
from slipstream.training.dropout import MaskPool  # noqa: E402


def no_dropout():
    return MaskPool(0.0, torch.float64, torch.Generator())


def windows(size, stream):
    """Random beginnings of windows, as `first`."""
    begins = (torch.rand(size, generator=stream) < 0.15).tolist()
    first, current = [], 0
    for slot, begin in enumerate(begins):
        current = slot if begin else current
        first.append(current)
    return torch.tensor(first)


def pointwise_reference(qkv, bias, first, width):
    """One row at a time: silu instead of the softmax, over the number of rows that it sees."""
    size, heads = len(first), bias.shape[0]
    query, key, value = (x.view(size, heads, -1) for x in qkv.chunk(3, dim=1))
    rows = []
    for i in range(size):
        seen = range(max(int(first[i]), i - width + 1), i + 1)
        logits = torch.stack([(query[i] * key[j]).sum(-1) + bias[:, i - j] for j in seen])  # [seen, H]
        shares = torch.nn.functional.silu(logits) / len(seen)
        rows.append((shares[:, :, None] * value[seen.start : i + 1]).sum(0).flatten())
    return torch.stack(rows)


ways = st.sampled_from([(banded_attention, attention_reference), (pointwise_attention, pointwise_reference)])


@given(ways, st.integers(2, 40), st.sampled_from([4, 16, 32]), st.integers(1, 4), st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_blocks_equal_the_full_matrix_with_gradients(way, width, block, blocks, seed):
    attention, reference = way
    stream = torch.Generator().manual_seed(seed)
    size, heads, dim = block * blocks, 2, 8
    qkv = torch.randn(size, 3 * dim, generator=stream, dtype=torch.float64).requires_grad_()
    bias = torch.randn(heads, width, generator=stream, dtype=torch.float64).requires_grad_()
    upstream = torch.randn(size, dim, generator=stream, dtype=torch.float64)
    first = windows(size, stream)
    fast = attention(qkv, bias, band_of(first, width, block, torch.float64), no_dropout())
    slow = reference(qkv, bias, first, width)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
    fast_gradients = torch.autograd.grad((fast * upstream).sum(), (qkv, bias))
    slow_gradients = torch.autograd.grad((slow * upstream).sum(), (qkv, bias))
    torch.testing.assert_close(fast_gradients[0], slow_gradients[0], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(fast_gradients[1].double(), slow_gradients[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [banded_attention, pointwise_attention])
def test_dropout_gradient_uses_the_mask_of_the_forward_pass(attention):
    """With the shares' mask known, a finite difference must agree with the gradient."""
    stream = torch.Generator().manual_seed(1)
    size, width = 16, 8
    first = torch.zeros(size, dtype=torch.long)
    band = band_of(first, width, 16, torch.float64)
    qkv = torch.randn(size, 24, generator=stream, dtype=torch.float64).requires_grad_()
    bias = torch.zeros(2, width, dtype=torch.float64)

    def value(x):
        pool = MaskPool(0.5, torch.float64, torch.Generator().manual_seed(3))
        return attention(x, bias, band, pool).pow(2).sum()

    gradient = torch.autograd.grad(value(qkv), qkv)[0]
    direction = torch.randn(qkv.shape, generator=stream, dtype=torch.float64)
    step = 1e-6
    difference = (value(qkv + step * direction) - value(qkv - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-5)


def test_the_mask_pool_keeps_the_mean_and_repeats_with_its_stream():
    pool, again = (MaskPool(0.2, torch.float32, torch.Generator().manual_seed(7)) for _ in range(2))
    masks = [pool.mask((300, 1000)) for _ in range(3)]
    assert abs(torch.stack(masks).mean().item() - 1) < 0.01
    for mask in masks:
        assert torch.equal(mask, again.mask((300, 1000)))
    assert not torch.equal(masks[0], masks[1])

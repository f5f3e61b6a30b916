"""The fast losses against slow ones: value and gradients."""

import math

import pytest

torch = pytest.importorskip("torch")

from slipstream.training.losses import (  # noqa: E402
    TILE,
    sampled_softmax_loss,
    softmax_loss_reference,
    streamed_softmax_loss,
    unit_rows,
)


def problem(tokens, items, dim, targets, seed=0, dtype=torch.float64):
    stream = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, dim, generator=stream, dtype=dtype).requires_grad_()
    table = (torch.randn(items, dim, generator=stream, dtype=dtype) * 0.5).requires_grad_()
    target = torch.randint(items, (tokens, targets), generator=stream)
    weight = torch.rand(tokens, targets, generator=stream)
    weight = weight / weight.sum(1, keepdim=True)
    return hidden, table, target, weight


@pytest.mark.parametrize("tokens", [1, TILE - 1, TILE, 2 * TILE + 3])
@pytest.mark.parametrize("targets", [1, 3])
def test_streamed_softmax_equals_the_reference(tokens, targets):
    hidden, table, target, weight = problem(tokens, 37, 8, targets)
    weight[0] = 0  # an empty slot
    fast = streamed_softmax_loss(hidden, table, target, weight)
    slow = softmax_loss_reference(hidden, table, target, weight)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-6)
    for a, b in zip(
        torch.autograd.grad(2 * fast, (hidden, table)),
        torch.autograd.grad(2 * slow, (hidden, table)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_bfloat16_gradient_is_within_one_percent():
    hidden, table, target, weight = problem(300, 500, 32, 1, dtype=torch.float32)
    slow = torch.autograd.grad(softmax_loss_reference(hidden, table, target, weight), (hidden, table))
    low = streamed_softmax_loss(hidden.bfloat16(), table, target, weight)
    for a, b in zip(torch.autograd.grad(low, (hidden, table)), slow, strict=True):
        assert ((a - b).norm() / b.norm()).item() < 0.01


def test_a_uniform_model_loses_the_logarithm_of_the_items():
    loss = streamed_softmax_loss(
        torch.zeros(5, 4), torch.zeros(11, 4), torch.zeros(5, 1, dtype=torch.long), torch.ones(5, 1)
    )
    assert loss.item() == pytest.approx(5 * math.log(11), rel=1e-6)


def test_sampled_softmax_is_unbiased_when_every_item_is_drawn_once():
    """With each item as a negative and an expected count of 1, it is the full softmax."""
    hidden, table, target, weight = problem(20, 15, 6, 1)
    full = softmax_loss_reference(hidden, table, target, weight)
    sampled = sampled_softmax_loss(hidden, table, target, weight, torch.arange(15), torch.zeros(15))
    assert sampled.item() == pytest.approx(full.item(), rel=1e-6)


def test_sampled_softmax_never_punishes_a_target():
    hidden, table, target, weight = problem(4, 9, 6, 1)
    negatives = target[:1, 0].repeat(50)
    loss = sampled_softmax_loss(hidden[:1], table, target[:1], weight[:1], negatives, torch.zeros(9))
    assert loss.item() == pytest.approx(0.0, abs=1e-9)


def test_unit_rows_equals_normalize_with_its_gradient():
    table = problem(1, 20, 7, 1)[1]
    upstream = torch.randn(20, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, theirs = unit_rows(table), torch.nn.functional.normalize(table, dim=-1)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad((x * upstream).sum(), table) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)

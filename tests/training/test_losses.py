"""The fast losses against slow ones: value and gradients."""

import math

import pytest

torch = pytest.importorskip("torch")

from slipstream.training.losses import (  # noqa: E402
    TILE,
    softmax_loss_reference,
    streamed_softmax_loss,
    unit_rows,
)
from slipstream.training.sampled_losses import (  # noqa: E402
    Candidates,
    gbce_beta,
    gbce_loss,
    sampled_softmax_loss,
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


def candidates_of(table, target, weight, negatives):
    return Candidates(table[target], target, weight, table[negatives], negatives)


def slow_softmax(hidden, table, target, weight, negatives, log_expected):
    """One token and one target at a time."""
    loss = 0
    for h, goals, shares in zip(hidden, target, weight, strict=True):
        kept = [n for n, item in enumerate(negatives.tolist()) if item not in goals.tolist()]
        others = table[negatives[kept]] @ h - log_expected[kept]
        for goal, share in zip(goals, shares, strict=True):
            one = table[goal] @ h
            loss = loss + share * (torch.logsumexp(torch.cat([one[None], others]), 0) - one)
    return loss


def slow_gbce(hidden, table, target, weight, negatives, beta):
    """The definition, with the logarithms of the sigmoids written out."""
    loss = 0
    for h, goals, shares in zip(hidden, target, weight, strict=True):
        kept = [item for item in negatives.tolist() if item not in goals.tolist()]
        others = (1 - torch.sigmoid(table[kept] @ h)).log().sum()
        for goal, share in zip(goals, shares, strict=True):
            own = (torch.sigmoid(table[goal] @ h) ** beta).log()
            loss = loss - share * (own + others) / (len(negatives) + 1)
    return loss


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("name", ["softmax", "gbce"])
def test_a_sampled_loss_equals_its_slow_form_with_gradients(name, targets):
    hidden, table, target, weight = problem(TILE + 9, 12, 6, targets)
    weight[3] = 0  # an empty slot
    stream = torch.Generator().manual_seed(5)
    negatives = torch.randint(12, (10,), generator=stream)  # with repeats, and targets among them
    log_expected = torch.rand(10, generator=stream) * 2 - 1
    given = candidates_of(table, target, weight, negatives)
    if name == "softmax":
        fast = sampled_softmax_loss(hidden, given, log_expected)
        slow = slow_softmax(hidden, table, target, weight, negatives, log_expected)
    else:
        fast = gbce_loss(hidden, given, 0.3)
        slow = slow_gbce(hidden, table, target, weight, negatives, 0.3)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(2 * loss, (hidden, table)) for loss in (fast, slow))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_sampled_softmax_is_unbiased_when_every_item_is_drawn_once():
    """With each item as a negative and an expected count of 1, it is the full softmax."""
    hidden, table, target, weight = problem(20, 15, 6, 1)
    full = softmax_loss_reference(hidden, table, target, weight)
    given = candidates_of(table, target, weight, torch.arange(15))
    assert sampled_softmax_loss(hidden, given, torch.zeros(15)).item() == pytest.approx(full.item(), rel=1e-6)


@pytest.mark.parametrize("loss", [lambda *a: sampled_softmax_loss(*a, torch.zeros(50)), gbce_loss])
def test_a_sampled_loss_never_punishes_a_target(loss):
    """All negatives are the target: what is left is the positive part alone."""
    hidden, table, target, weight = problem(1, 9, 6, 1)
    given = candidates_of(table, target, weight, target[0].repeat(50))
    value = loss(hidden, given) if loss is not gbce_loss else loss(hidden, given, 0.0)
    assert value.item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("calibration", "left"), [(1.0, 0.0), (0.0, 1.0)])
def test_only_a_calibrated_loss_is_at_rest_where_the_model_knows_the_true_chances(calibration, left):
    """Every item is the one negative once: the exact mean over samples. Plain BCE still pushes."""
    items, target = 40, torch.tensor([0] * 10 + [1] * 6 + [2] * 3 + [3])[:, None]
    table = torch.full((items, 1), -9.0, dtype=torch.float64)
    table[:4, 0] = torch.logit(torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64))
    table.requires_grad_()
    weight, hidden = torch.ones(20, 1), torch.ones(20, 1, dtype=torch.float64)
    beta = gbce_beta(1, items, calibration)
    total = sum(
        gbce_loss(hidden, candidates_of(table, target, weight, torch.tensor([n])), beta) for n in range(items)
    )
    (gradient,) = torch.autograd.grad(total, table)
    towards = -beta * items / 2 * torch.tensor([10 * 0.5, 6 * 0.7, 3 * 0.85, 0.95])  # of the positives alone
    assert (gradient[:4, 0] / towards).tolist() == pytest.approx([left] * 4, abs=0.04)


def test_gbce_beta_at_its_ends():
    assert gbce_beta(256, 3417, 0.0) == pytest.approx(1.0)
    assert gbce_beta(256, 3417, 1.0) == pytest.approx(256 / 3416)
    assert gbce_beta(500, 101, 1.0) == 1.0  # more negatives than items: nothing to undo


def test_unit_rows_equals_normalize_with_its_gradient():
    table = problem(1, 20, 7, 1)[1]
    upstream = torch.randn(20, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, theirs = unit_rows(table), torch.nn.functional.normalize(table, dim=-1)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad((x * upstream).sum(), table) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)

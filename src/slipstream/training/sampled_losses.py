"""Losses against a sample of the catalogue: sampled softmax with logQ, and gBCE.

Both compare a token with its own targets and with N negatives that all tokens of a chunk share, so the cost
is O(L · N · D) however large the catalogue. They take rows that were gathered before, so that a step does not
pass over the whole table once more. Like the full softmax they go tile by tile and form the gradients on the
way. All return the sum over tokens; a token counts as much as its row of `weight` sums to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

TILE = 256  # rows of logits at once: with 512 negatives 0.5 MB, which stays in a core's cache
NEVER = -1e30  # the logit of a negative that is a target: as good as -inf, and its sums stay finite


@dataclass(frozen=True)
class Candidates:
    """What the tokens of a chunk are compared with, in the dtype of their hidden vectors.

    own [L, T, D] and target [L, T]: rows and numbers of the targets. shared [N, D] and negatives [N]: those
    of the sample. weight [L, T] float32. A negative that is a target of the token does not count for it.
    """

    own: Tensor
    target: Tensor
    weight: Tensor
    shared: Tensor
    negatives: Tensor


Form = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(own logits [t, T], those of the sample [t, N], weight) → the loss, and its gradients by both logits.

It may write into the logits of the sample.
"""


def sampled_softmax_loss(hidden: Tensor, candidates: Candidates, log_expected: Tensor) -> Tensor:
    """Cross-entropy against the targets and the sample, with logQ correction on the sample.

    log_expected [N]: log of how often each negative is expected in the sample. A target keeps its own logit:
    it is there whatever the sampler does, so correcting it would be a bias (Khrylchenko et al. 2025).
    """

    def form(own: Tensor, shared: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shared.sub_(log_expected)
        top, where = shared.max(1, keepdim=True)
        chance = torch.softmax(shared, 1)
        rest = top - chance.gather(1, where).log()  # the logsumexp, without a second pass of exponentials
        joint = torch.logaddexp(own, rest)  # [t, T]
        share = (weight * torch.exp(rest - joint)).sum(1, keepdim=True)
        by_own = weight * (torch.exp(own - joint) - 1)
        return (weight * (joint - own)).sum(), by_own, chance.mul_(share)

    return _apply(hidden, candidates, form)


def gbce_loss(hidden: Tensor, candidates: Candidates, beta: float) -> Tensor:
    """gBCE: -(β log σ(own) + Σ log(1 - σ(negative))) / (N + 1), the mean over targets by weight.

    Petrov & Macdonald 2023 (gSASRec), the definition of gBCE; `gbce_beta` gives β. The sample must be
    uniform. Differs: a chunk shares its negatives, which makes the loss a matrix product.
    """
    count = len(candidates.negatives) + 1

    def form(own: Tensor, shared: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        total = weight.sum(1, keepdim=True)
        loss = beta * (weight * softplus(-own)).sum() + (total * softplus(shared)).sum()
        by_own = weight * torch.sigmoid(-own) * (-beta / count)
        return loss / count, by_own, shared.sigmoid_().mul_(total / count)

    return _apply(hidden, candidates, form)


def gbce_beta(negatives: int, items: int, calibration: float) -> float:
    """β = α (t (1 - 1/α) + 1/α) with the sampling rate α = negatives / (items - 1) and the calibration t.

    Petrov & Macdonald 2023, the calibration of gSASRec. t = 0 is plain BCE (β = 1), whose probabilities are
    far too high after sampling; t = 1 undoes the sampling (β = α).
    """
    rate = min(1.0, negatives / max(items - 1, 1))
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def _apply(hidden: Tensor, c: Candidates, form: Form) -> Tensor:
    result: Tensor = _SampledLoss.apply(hidden, c.own, c.shared, c, form)  # type: ignore[no-untyped-call]
    return result


class _SampledLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, own: Tensor, shared: Tensor, c: Candidates, form: Form) -> Tensor:
        d_hidden, d_own = torch.empty_like(hidden), torch.empty_like(own)
        d_shared = torch.zeros(shared.shape, dtype=torch.float32, device=shared.device)
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        hit_row, hit_column = _hits(c)
        for at in range(0, len(hidden), TILE):
            rows = slice(at, at + TILE)
            h, mine = hidden[rows], own[rows]
            one = torch.linalg.vecdot(h[:, None, :], mine).float()  # [t, T]
            others = (h @ shared.T).float()  # [t, N]
            here = (hit_row >= at) & (hit_row < at + TILE)
            others[hit_row[here] - at, hit_column[here]] = NEVER
            part, d_one, d_others = form(one, others, c.weight[rows])
            loss += part
            d_one, d_others = d_one.to(hidden.dtype), d_others.to(hidden.dtype)
            torch.mm(d_others, shared, out=d_hidden[rows])
            d_hidden[rows] += (d_one[:, :, None] * mine).sum(1)
            torch.mul(d_one[:, :, None], h[:, None, :], out=d_own[rows])
            d_shared += d_others.T @ h
        ctx.save_for_backward(d_hidden, d_own, d_shared.to(shared.dtype))
        return loss.float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        d_hidden, d_own, d_shared = (d * gradient.to(d.dtype) for d in ctx.saved_tensors)
        return d_hidden, d_own, d_shared, None, None


def _hits(c: Candidates) -> tuple[Tensor, Tensor]:
    """Token and place in the sample of every negative that is a target of the token. O((N + L T) log N)."""
    ordered, place = torch.sort(c.negatives)
    target = c.target.flatten().contiguous()
    low = torch.searchsorted(ordered, target)
    count = torch.searchsorted(ordered, target, right=True) - low
    of_target = torch.repeat_interleave(count)  # which target, for every hit
    number = torch.arange(len(of_target), device=target.device) - (count.cumsum(0) - count)[of_target]
    return of_target // c.target.shape[1], place[low[of_target] + number]

"""Losses over the whole catalogue: the full softmax streamed in tiles, and its slow reference.

All return the sum over tokens; a token counts as much as its row of `weight` sums to (1, or 0 for an empty
slot). Targets may be several per token: the answer is then the distribution `weight` over them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TILE = 128  # rows of logits at once: 128 x 3,416 in bfloat16 is 0.9 MB, which stays in a core's cache
TINY = 1e-30


def streamed_softmax_loss(hidden: Tensor, table: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy against all items without ever holding the logits. O(L · I · D) time, O(TILE · I) memory.

    hidden [L, D]; table [I, D], multiplied in the dtype of `hidden` (bfloat16 halves the traffic and uses
    the matrix units) while its gradient is summed in float32; target [L, T] int64, weight [L, T] float32.
    Gradients are formed during the forward pass, while a tile of probabilities is at hand, so a logit is
    computed once and not again in the backward pass.
    """
    result: Tensor = _StreamedSoftmax.apply(hidden, table, target, weight)  # type: ignore[no-untyped-call]
    return result


class _StreamedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        low = table.to(hidden.dtype)
        d_hidden = torch.empty_like(hidden)
        d_table = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        counts = weight.sum(1, keepdim=True)
        padded = bool((counts == 0).any())
        for at in range(0, len(hidden), TILE):
            rows = slice(at, at + TILE)
            chance = torch.softmax(hidden[rows] @ low.T, -1)  # [TILE, I]
            picked = chance.gather(1, target[rows]).double().clamp_min(TINY)
            loss -= (picked.log() * weight[rows]).sum()
            if padded:
                chance *= counts[rows].to(chance.dtype)
            chance.scatter_add_(1, target[rows], -weight[rows].to(chance.dtype))
            torch.mm(chance, low, out=d_hidden[rows])
            d_table += chance.T @ hidden[rows]
        ctx.save_for_backward(d_hidden, d_table.to(table.dtype))
        return loss.float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_table = ctx.saved_tensors
        return d_hidden * gradient.to(d_hidden.dtype), d_table * gradient.to(d_table.dtype), None, None


def unit_rows(table: Tensor) -> Tensor:
    """`table` [I, D] with every row divided by its length, in few passes over a table that is large."""
    result: Tensor = _UnitRows.apply(table)  # type: ignore[no-untyped-call]
    return result


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor) -> Tensor:
        inverse: Tensor = (
            torch.linalg.vector_norm(table, dim=-1, keepdim=True).clamp_min_(1e-12).reciprocal_()
        )
        unit: Tensor = table * inverse
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        unit, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, unit)[:, None]
        across: Tensor = torch.addcmul(gradient, along, unit, value=-1).mul_(inverse)
        return across


def softmax_loss_reference(hidden: Tensor, table: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The slow, obvious form: all logits at once. The oracle of the tests."""
    logs = torch.log_softmax(hidden @ table.T, -1)
    return -(logs.gather(1, target) * weight).sum()

"""Banded causal attention over a packed stream, with its gradients written by hand.

Token i sees tokens j with i - W < j <= i of its own window. The stream is cut into blocks of b tokens; a
block of queries meets the keys of its own and the `back` blocks before, so the cost is O(L · (back + 1) · b)
and no [L, L] matrix exists. The logits carry a learned bias per head and age i - j.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from slipstream.training.dropout import MaskPool

NEVER = -30000.0  # as good as -inf in bfloat16, and a row of nothing but NEVER stays finite


@dataclass(frozen=True)
class Band:
    """Who sees whom in one chunk; the same for all layers."""

    width: int
    block: int
    back: int
    age: Tensor  # [b, span] i - j, clamped into 0 .. W - 1
    blocked: Tensor  # [L / b, 1, b, span] NEVER where j is not to be seen, else 0

    @property
    def span(self) -> int:
        return (self.back + 1) * self.block


def band_of(first: Tensor, width: int, block: int, dtype: torch.dtype) -> Band:
    """The band of a chunk from the slot where each token's window begins, [L]; L is a multiple of `block`."""
    back = -(-(width - 1) // block)
    size, device = len(first), first.device
    span = (back + 1) * block
    row = torch.arange(block, device=device)
    column = torch.arange(span, device=device) - back * block
    age = row[:, None] - column[None, :]  # [b, span]
    outside = (age < 0) | (age >= width)
    start = torch.arange(0, size, block, device=device)
    key = start[:, None] + column[None, :]  # [L / b, span]
    too_early = key[:, None, :] < first.view(-1, block)[:, :, None]
    blocked = torch.where(outside[None] | too_early, NEVER, 0.0).to(dtype)
    return Band(width, block, back, age.clamp(0, width - 1), blocked[:, None])


def banded_attention(qkv: Tensor, bias: Tensor, band: Band, pool: MaskPool) -> Tensor:
    """[L, D] from qkv [L, 3D] (queries, keys, values, each head after head) and bias [H, W]."""
    result: Tensor = _BandedAttention.apply(qkv, bias, band, pool)  # type: ignore[no-untyped-call]
    return result


class _BandedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, band: Band, pool: MaskPool) -> Tensor:
        heads = bias.shape[0]
        query, key, value = _split(qkv, heads, band)
        scale = query.shape[-1] ** -0.5
        logits = torch.bmm(query, key.transpose(1, 2)).view(-1, heads, band.block, band.span)
        by_age = bias.to(logits.dtype).index_select(1, band.age.reshape(-1))
        logits.mul_(scale).add_(by_age.view(heads, band.block, band.span)).add_(band.blocked)
        shares = torch.softmax(logits, -1).view(-1, band.block, band.span)
        mask = pool.mask(shares.shape) if pool.rate > 0 else None
        mixed = torch.bmm(shares if mask is None else shares * mask, value)
        ctx.band, ctx.scale, ctx.heads, ctx.mask = band, scale, heads, mask
        ctx.save_for_backward(query, key, value, shares)
        return _to_rows(mixed, heads, band)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query, key, value, shares = ctx.saved_tensors
        d_shares, d_value = _by_shares(ctx, gradient, shares, value)
        d_logits = torch.ops.aten._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        return *_by_inputs(ctx, d_logits, d_value, query, key), None, None


def pointwise_attention(qkv: Tensor, bias: Tensor, band: Band, pool: MaskPool) -> Tensor:
    """The attention of HSTU over the same band: shares are silu(q · k + bias) / (number of visible tokens).

    Zhai et al. 2024 (HSTU), eq. 2, which divides by a constant; the own visible count is as local to the row,
    so a state can still be advanced exactly, and a short history is not damped. Shapes as `banded_attention`.
    """
    result: Tensor = _PointwiseAttention.apply(qkv, bias, band, pool)  # type: ignore[no-untyped-call]
    return result


class _PointwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, band: Band, pool: MaskPool) -> Tensor:
        heads = bias.shape[0]
        query, key, value = _split(qkv, heads, band)
        logits = torch.bmm(query, key.transpose(1, 2)).view(-1, heads, band.block, band.span)
        by_age = bias.to(logits.dtype).index_select(1, band.age.reshape(-1))
        logits.add_(by_age.view(heads, band.block, band.span)).add_(band.blocked)
        visible = (band.blocked == 0).sum(-1, keepdim=True).to(logits.dtype)
        shares = silu(logits).div_(visible).view(-1, band.block, band.span)
        mask = pool.mask(shares.shape) if pool.rate > 0 else None
        mixed = torch.bmm(shares if mask is None else shares * mask, value)
        ctx.band, ctx.scale, ctx.heads, ctx.mask = band, 1.0, heads, mask
        ctx.save_for_backward(query, key, value, shares, logits, visible)
        return _to_rows(mixed, heads, band)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query, key, value, shares, logits, visible = ctx.saved_tensors
        d_shares, d_value = _by_shares(ctx, gradient, shares, value)
        d_shares = d_shares.view(logits.shape).div_(visible)
        d_logits = torch.ops.aten.silu_backward(d_shares, logits).flatten(0, 1)
        return *_by_inputs(ctx, d_logits, d_value, query, key), None, None


def _by_shares(ctx: Any, gradient: Tensor, shares: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients by the shares and by the values."""
    upstream = _to_blocks(gradient, ctx.heads, ctx.band)
    dropped = shares if ctx.mask is None else shares * ctx.mask
    d_value = torch.bmm(dropped.transpose(1, 2), upstream)
    d_shares = torch.bmm(upstream, value.transpose(1, 2))
    if ctx.mask is not None:
        d_shares.mul_(ctx.mask)
    return d_shares, d_value


def _by_inputs(
    ctx: Any, d_logits: Tensor, d_value: Tensor, query: Tensor, key: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients by qkv and by the bias."""
    band, heads = ctx.band, ctx.heads
    d_age = d_logits.view(-1, heads, band.block * band.span).sum(0, dtype=torch.float32)
    d_bias = torch.zeros(heads, band.width, dtype=torch.float32, device=d_logits.device)
    d_bias.index_add_(1, band.age.reshape(-1), d_age)
    d_query = torch.bmm(d_logits, key).mul_(ctx.scale)
    d_key = torch.bmm(d_logits.transpose(1, 2), query).mul_(ctx.scale)
    parts = [_to_rows(d_query, heads, band), _fold(d_key, heads, band), _fold(d_value, heads, band)]
    return torch.cat(parts, 1), d_bias


def _split(qkv: Tensor, heads: int, band: Band) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [L/b · H, b, D/H]; keys and values [L/b · H, span, D/H] with the blocks before."""
    query, key, value = qkv.chunk(3, dim=1)
    return _to_blocks(query, heads, band), _unfold(key, heads, band), _unfold(value, heads, band)


def _to_blocks(rows: Tensor, heads: int, band: Band) -> Tensor:
    return rows.reshape(-1, band.block, heads, rows.shape[1] // heads).transpose(1, 2).flatten(0, 1)


def _to_rows(blocks: Tensor, heads: int, band: Band) -> Tensor:
    return blocks.view(-1, heads, band.block, blocks.shape[-1]).transpose(1, 2).flatten(2).flatten(0, 1)


def _unfold(rows: Tensor, heads: int, band: Band) -> Tensor:
    size, width = rows.shape
    padded = rows.new_zeros(size + band.back * band.block, width)
    padded[band.back * band.block :] = rows
    spans = padded.unfold(0, band.span, band.block)  # [L/b, D, span]
    return spans.reshape(-1, heads, width // heads, band.span).transpose(2, 3).flatten(0, 1)


def _fold(spans: Tensor, heads: int, band: Band) -> Tensor:
    """The transpose of `_unfold`: each row sums what its copies received."""
    count, depth = spans.shape[0] // heads, spans.shape[-1]
    parts = spans.view(count, heads, band.back + 1, band.block, depth).permute(0, 2, 3, 1, 4)
    parts = parts.reshape(count, band.back + 1, band.block, heads * depth)
    total = parts[:, band.back].clone()
    for step in range(1, band.back + 1):
        if step < count:
            total[:-step] += parts[step:, band.back - step]
    return total.view(count * band.block, heads * depth)


def attention_reference(qkv: Tensor, bias: Tensor, first: Tensor, width: int) -> Tensor:
    """The slow, obvious form without dropout: the oracle of the tests. O(L²)."""
    size, heads = len(first), bias.shape[0]
    query, key, value = (x.view(size, heads, -1).transpose(0, 1) for x in qkv.chunk(3, dim=1))
    age = torch.arange(size)[:, None] - torch.arange(size)[None, :]
    seen = (age >= 0) & (age < width) & (torch.arange(size)[None, :] >= first[:, None])
    logits = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5 + bias[:, age.clamp(0, width - 1)]
    shares = torch.softmax(logits.masked_fill(~seen, -torch.inf), -1)
    return (shares @ value).transpose(0, 1).flatten(1)

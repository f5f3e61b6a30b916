"""The causal transformer as a torch network over packed chunks. `inference/encoder.py` is its twin in numpy.

Pre-norm, banded attention of width W in every layer with a learned bias per head and age, own-time gap
embedding, tied item table. Nothing is anchored to the end of a history and nothing looks ahead in time, so
the state can be advanced by one event exactly. Matrices are kept [in, out], the layout the step kernel reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag, gelu, layer_norm, normalize, silu

from slipstream.inference.packed_weights import LEVELS, PARTS, Packed
from slipstream.training.attention import Band, band_of, banded_attention, pointwise_attention
from slipstream.training.dropout import MaskPool
from slipstream.training.losses import unit_rows

INITIAL = 0.02  # standard deviation of fresh weights
EPSILON = 1e-5  # of the layer norms; inference uses the same


@dataclass(frozen=True)
class NetworkShape:
    """What the weights look like; read by training only (inference reads it off the weights)."""

    items: int
    dim: int
    layers: int
    heads: int
    window: int  # W
    ffn: Literal["silu", "gelu", "swiglu"] = "silu"
    ffn_dim: int = 0  # 0: 4 · dim
    gap_bins: int = 0  # 0: no clock
    relative_bias: bool = True
    cosine: bool = False
    query_time: bool = False  # the head may know when the answer is wanted; needs gap_bins
    features: int = 0  # columns of the item features; 0: none
    user_features: int = 0  # columns of the user features; 0: none
    residual: Literal["plain", "gated"] = "plain"
    body: Literal["transformer", "hstu"] = "transformer"

    @property
    def hidden(self) -> int:
        return self.ffn_dim or 4 * self.dim


@dataclass(frozen=True)
class SparseRows:
    """A constant sparse matrix as index lists: row i has `column[offsets[i]:offsets[i+1]]` and its values."""

    offsets: Tensor  # [rows] int64
    column: Tensor  # [M] int64
    value: Tensor  # [M] float32

    @classmethod
    def of(cls, matrix: sp.csr_matrix, device: str) -> SparseRows:
        return cls(
            torch.from_numpy(matrix.indptr[:-1].astype(np.int64)).to(device),
            torch.from_numpy(matrix.indices.astype(np.int64)).to(device),
            torch.from_numpy(matrix.data.astype(np.float32)).to(device),
        )

    def times(self, table: Tensor) -> Tensor:
        """[rows, D] from table [columns, D]; differentiable in `table`."""
        return embedding_bag(self.column, table, self.offsets, mode="sum", per_sample_weights=self.value)


@dataclass(frozen=True)
class Neighbours:
    """near: the symmetric matrix of `neighbourhood`. share: how much of it an item's vector takes."""

    near: SparseRows
    share: float

    def smooth(self, table: Tensor) -> Tensor:
        """table + share · A table, [I, D]. O(nnz · D) forward and backward."""
        result: Tensor = _Smoothed.apply(table, self.near, self.share)  # type: ignore[no-untyped-call]
        return result


class _Smoothed(torch.autograd.Function):
    """By hand, as the gradient is the same product again: A is its own transpose."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, near: SparseRows, share: float) -> Tensor:
        ctx.near, ctx.share = near, share
        return torch.add(table, near.times(table), alpha=share)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return torch.add(gradient, ctx.near.times(gradient), alpha=ctx.share), None, None


@dataclass(frozen=True)
class Codes:
    """place: the row of each item's centroids in the books that lie one under the other, [I, BOOKS]."""

    place: Tensor  # int64
    books: tuple[int, int]  # the shape of all books together
    columns: int  # D

    @classmethod
    def of(cls, packed: Packed, items: NDArray[np.integer], device: str) -> Codes:
        """Those of some items."""
        assert packed.scale is not None  # noqa: S101 - the books
        count, centroids, width = packed.scale.shape
        place = packed.codes[items].astype(np.int64) + np.arange(count) * centroids
        return cls(torch.from_numpy(place).to(device), (count * centroids, width), packed.columns)

    def decode(self, books: Tensor) -> Tensor:
        """[I, D]; differentiable in `books`."""
        centroids = embedding(self.place, books).view(len(self.place), PARTS, LEVELS, -1)
        return centroids.sum(2).flatten(1)[:, : self.columns]


@dataclass(frozen=True)
class Dropout:
    """Mask pools of one shard: `body` for embeddings and residuals, `attention` for the attention shares."""

    body: MaskPool
    attention: MaskPool


class RequestHead(nn.Module):
    """h + W_out · silu(W_in · h + b + T[bin] + Pᵀ features): what is known beside the history.

    T: of the time since the last event. P: of the features of the person. It stands after the last layer, so
    the state of a user stays the same whenever the request comes and whatever is known of the user.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        wide = 2 * shape.dim
        self.time = nn.Parameter(torch.empty(shape.gap_bins, wide)) if shape.query_time else None
        self.in_weight = nn.Parameter(torch.empty(shape.dim, wide))
        self.in_bias = nn.Parameter(torch.zeros(wide))
        self.out_weight = nn.Parameter(torch.empty(wide, shape.dim))
        self.person = nn.Parameter(torch.empty(shape.user_features, wide)) if shape.user_features else None

    def forward(self, h: Tensor, wait: Tensor | None, person: Tensor | None, dtype: torch.dtype) -> Tensor:
        inner = torch.addmm(self.in_bias.to(dtype), h.to(dtype), self.in_weight.to(dtype))
        if self.time is not None and wait is not None:
            inner = inner + self.time.to(dtype)[wait]
        if person is not None:
            inner = inner + person.to(dtype)
        return h + silu(inner) @ self.out_weight.to(dtype)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)).

    Gated: each branch is scaled by sigmoid(x W + b), element by element, which keeps deep stacks trainable
    (LiGR, Borisyuk et al. 2025). Differs: a bias; attention, norms and feed-forward stay as they are.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        dim, inner = shape.dim, shape.hidden
        wide = 2 * inner if shape.ffn == "swiglu" else inner
        self.norm1_weight = nn.Parameter(torch.ones(dim))
        self.norm1_bias = nn.Parameter(torch.zeros(dim))
        self.qkv_weight = nn.Parameter(torch.empty(dim, 3 * dim))
        self.qkv_bias = nn.Parameter(torch.zeros(3 * dim))
        self.relative_bias = nn.Parameter(
            torch.zeros(shape.heads, shape.window), requires_grad=shape.relative_bias
        )
        self.out_weight = nn.Parameter(torch.empty(dim, dim))
        self.out_bias = nn.Parameter(torch.zeros(dim))
        self.norm2_weight = nn.Parameter(torch.ones(dim))
        self.norm2_bias = nn.Parameter(torch.zeros(dim))
        self.ffn_in_weight = nn.Parameter(torch.empty(dim, wide))
        self.ffn_in_bias = nn.Parameter(torch.zeros(wide))
        self.ffn_out_weight = nn.Parameter(torch.empty(inner, dim))
        self.ffn_out_bias = nn.Parameter(torch.zeros(dim))
        self.ffn = shape.ffn
        self.gated = shape.residual == "gated"
        if self.gated:
            self.gate1_weight, self.gate2_weight = (nn.Parameter(torch.empty(dim, dim)) for _ in range(2))
            self.gate1_bias, self.gate2_bias = (nn.Parameter(torch.zeros(dim)) for _ in range(2))

    def forward(self, x: Tensor, band: Band, dropout: Dropout, dtype: torch.dtype) -> Tensor:
        h = layer_norm(x, x.shape[-1:], self.norm1_weight, self.norm1_bias, EPSILON).to(dtype)
        qkv = torch.addmm(self.qkv_bias.to(dtype), h, self.qkv_weight.to(dtype))
        mixed = banded_attention(qkv, self.relative_bias, band, dropout.attention)
        branch = dropout.body(torch.addmm(self.out_bias.to(dtype), mixed, self.out_weight.to(dtype)))
        x = x + (opening(x, self.gate1_weight, self.gate1_bias, dtype) * branch if self.gated else branch)
        h = layer_norm(x, x.shape[-1:], self.norm2_weight, self.norm2_bias, EPSILON).to(dtype)
        h = torch.addmm(self.ffn_in_bias.to(dtype), h, self.ffn_in_weight.to(dtype))
        if self.ffn == "swiglu":
            gate, value = h.chunk(2, dim=1)
            h = silu(gate) * value
        else:
            h = silu(h) if self.ffn == "silu" else gelu(h, approximate="tanh")
        branch = dropout.body(torch.addmm(self.ffn_out_bias.to(dtype), h, self.ffn_out_weight.to(dtype)))
        return x + (opening(x, self.gate2_weight, self.gate2_bias, dtype) * branch if self.gated else branch)


class HstuLayer(nn.Module):
    """x + out(norm(attention(q, k, v)) · u) with q, k, v, u = silu(x W + b): one sublayer, no feed-forward.

    Zhai et al. 2024 (HSTU), eqs. 1-3. Differs: the band, the age bias and the count that attention divides
    by (see `pointwise_attention`), and no bias by time between tokens: the gap to the event before is in x.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        dim = shape.dim
        self.norm1_weight = nn.Parameter(torch.ones(dim))
        self.norm1_bias = nn.Parameter(torch.zeros(dim))
        self.qkvu_weight = nn.Parameter(torch.empty(dim, 4 * dim))
        self.qkvu_bias = nn.Parameter(torch.zeros(4 * dim))
        self.relative_bias = nn.Parameter(
            torch.zeros(shape.heads, shape.window), requires_grad=shape.relative_bias
        )
        self.norm2_weight = nn.Parameter(torch.ones(dim))
        self.norm2_bias = nn.Parameter(torch.zeros(dim))
        self.out_weight = nn.Parameter(torch.empty(dim, dim))
        self.out_bias = nn.Parameter(torch.zeros(dim))
        self.gated = shape.residual == "gated"
        if self.gated:
            self.gate1_weight = nn.Parameter(torch.empty(dim, dim))
            self.gate1_bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, band: Band, dropout: Dropout, dtype: torch.dtype) -> Tensor:
        size = x.shape[-1:]
        h = layer_norm(x, size, self.norm1_weight, self.norm1_bias, EPSILON).to(dtype)
        h = silu(torch.addmm(self.qkvu_bias.to(dtype), h, self.qkvu_weight.to(dtype)))
        qkv, u = h[:, : 3 * size[0]], h[:, 3 * size[0] :]
        mixed = pointwise_attention(qkv, self.relative_bias, band, dropout.attention).to(x.dtype)
        h = layer_norm(mixed, size, self.norm2_weight, self.norm2_bias, EPSILON).to(dtype) * u
        branch = dropout.body(torch.addmm(self.out_bias.to(dtype), h, self.out_weight.to(dtype)))
        return x + (opening(x, self.gate1_weight, self.gate1_bias, dtype) * branch if self.gated else branch)


def opening(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.sigmoid(torch.addmm(bias.to(dtype), x.to(dtype), weight.to(dtype)))


class TransformerNetwork(nn.Module):
    """Hidden vectors of every token of a chunk, and the item table they are compared with."""

    def __init__(
        self,
        shape: NetworkShape,
        seed: int,
        content: SparseRows | None = None,
        neighbours: Neighbours | None = None,
        codes: Codes | None = None,
    ) -> None:
        """codes: `item` then holds their books, and a row of the table is its centroids side by side."""
        super().__init__()
        self.shape = shape
        self.content = content
        self.neighbours = neighbours
        self.codes = codes
        rows = (shape.items, shape.dim) if codes is None else codes.books
        self.item = nn.Parameter(torch.empty(rows))
        self.gap = nn.Parameter(torch.empty(shape.gap_bins, shape.dim)) if shape.gap_bins else None
        self.feature = nn.Parameter(torch.empty(shape.features, shape.dim)) if shape.features else None
        self.request = RequestHead(shape) if shape.query_time or shape.user_features else None
        self.input_norm_weight = nn.Parameter(torch.ones(shape.dim))
        self.input_norm_bias = nn.Parameter(torch.zeros(shape.dim))
        layer = HstuLayer if shape.body == "hstu" else Layer
        self.layer = nn.ModuleList(layer(shape) for _ in range(shape.layers))
        self.final_norm_weight = nn.Parameter(torch.ones(shape.dim))
        self.final_norm_bias = nn.Parameter(torch.zeros(shape.dim))
        stream = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                fresh = parameter.dim() == 2 and not name.endswith("relative_bias")
                if fresh:
                    parameter.normal_(0.0, INITIAL, generator=stream)

    def start_from(self, weights: dict[str, np.ndarray]) -> None:
        """Put weights in the place of fresh ones, but where they are NaN (items that are new) or missing."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name in weights:
                    given = torch.from_numpy(np.array(weights[name], np.float32)).to(parameter.device)
                    parameter.copy_(torch.where(given.isnan(), parameter, given))

    def item_table(self) -> Tensor:
        """[I, D] float32: the embedding, the projected features where there are any, the neighbours' part."""
        table: Tensor = self.item
        if self.codes is not None:
            return self.codes.decode(table)
        if self.feature is not None and self.content is not None:
            table = table + self.content.times(self.feature)
        return table if self.neighbours is None else self.neighbours.smooth(table)

    def output(self, hidden: Tensor, table: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """The two sides of the scores: hidden vectors and the tied table; cosine: the unit sphere."""
        if not self.shape.cosine:
            return hidden, table
        return hidden / temperature, unit_rows(table)

    def forward(
        self,
        table: Tensor,
        item: Tensor,
        gap: Tensor | None,
        first: Tensor,
        dropout: Dropout,
        dtype: torch.dtype,
        wait: Tensor | None = None,
        person: Tensor | None = None,
    ) -> Tensor:
        """[L, D] in `dtype` from item [L], gap [L] and the slot where each token's window begins [L].

        wait [L]: the bin of the time from the event to the request, 0 where it is not known.
        person [L, 2 D]: the features of each token's user times `request.person`, 0 where not known.
        """
        shape = self.shape
        x = embedding(item, table)
        if self.gap is not None and gap is not None:
            x = x + embedding(gap, self.gap)
        x = layer_norm(x, x.shape[-1:], self.input_norm_weight, self.input_norm_bias, EPSILON)
        x = dropout.body(x)
        band = band_of(first, shape.window, block_of(shape.window), dtype)
        for layer in self.layer:
            x = layer(x, band, dropout, dtype)
        x = layer_norm(x, x.shape[-1:], self.final_norm_weight, self.final_norm_bias, EPSILON)
        if self.request is not None:
            x = self.request(x, wait, person, dtype)
        return (normalize(x, dim=-1) if shape.cosine else x).to(dtype)

    def weights(self) -> dict[str, np.ndarray]:
        """What inference needs, as numpy arrays: the parameters, with the features folded into the table."""
        with torch.no_grad():
            found = {
                name: parameter.detach().cpu().numpy().copy()
                for name, parameter in self.named_parameters()
                if name != "feature"
            }
            found["item"] = self.item_table().detach().cpu().numpy().copy()
        return found


def block_of(window: int) -> int:
    """Tokens of an attention block: about half a window, which costs 1.5 windows of keys a token."""
    return 16 if window <= 24 else 32 if window <= 96 else 64

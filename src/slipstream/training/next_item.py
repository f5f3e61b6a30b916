"""The task "what comes next": histories, network and loss, as something `fit` can train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slipstream.randomness import derive, generator
from slipstream.training.dropout import MaskPool
from slipstream.training.losses import sampled_softmax_loss, softmax_loss_reference, streamed_softmax_loss
from slipstream.training.packing import Chunk, Histories, PackingPlan, chunks
from slipstream.training.transformer_network import Dropout, TransformerNetwork


@dataclass(frozen=True)
class NextItemPlan:
    """How the task is posed. shards: chunks whose gradients are formed apart and then summed, in this order,
    so that one thread and two give the same bits."""

    packing: PackingPlan
    shards: int = 1
    dropout: float = 0.2
    attention_dropout: float = 0.2
    temperature: float = 0.05
    loss: Literal["softmax", "softmax-reference", "sampled"] = "softmax"
    negatives: int = 512
    unknown_wait: float = 0.1  # share of tokens whose time to the next event is hidden from the request head
    dtype: torch.dtype = torch.float32


class NextItemTask:
    """Batches of an epoch and the loss of one chunk. Every random stream is named by (seed, epoch, shard)."""

    def __init__(
        self,
        network: TransformerNetwork,
        histories: Histories,
        plan: NextItemPlan,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.network = network.to(device)
        self.histories = histories
        self.plan = plan
        self.seed = seed
        self.device = device
        counts = np.bincount(histories.item, minlength=network.shape.items)
        self._log_expected = self._expected(counts).to(device)
        inputs = np.maximum(np.diff(histories.offsets) - 1, 0)
        last = plan.packing.last
        self.tokens = int((np.minimum(inputs, last) if last else inputs).sum() * (1 - plan.packing.deletion))

    def _expected(self, counts: NDArray[np.int64]) -> Tensor:
        """log of the expected number of draws of each item: half uniform, half by popularity."""
        popularity = counts / max(counts.sum(), 1)
        chance = 0.5 / len(counts) + 0.5 * popularity
        return torch.from_numpy(np.log(self.plan.negatives * chance)).float()

    def batches_per_epoch(self) -> int:
        return max(1, -(-self.tokens // (self.plan.packing.chunk * self.plan.shards)))

    def batches(self, epoch: int) -> Iterator[list[Chunk]]:
        """Lists of up to `shards` chunks."""
        batch: list[Chunk] = []
        for chunk in chunks(self.histories, self.plan.packing, generator(self.seed, "epoch", epoch)):
            batch.append(chunk)
            if len(batch) == self.plan.shards:
                yield batch
                batch = []
        if batch:
            yield batch

    def dropout(self, epoch: int, shard: int) -> Dropout:
        stream = torch.Generator(self.device).manual_seed(derive(self.seed, "dropout", epoch, shard))
        plan = self.plan
        body = MaskPool(plan.dropout, plan.dtype, stream)
        same = plan.dropout == plan.attention_dropout
        return Dropout(body, body if same else MaskPool(plan.attention_dropout, plan.dtype, stream))

    def loss(self, chunk: Chunk, dropout: Dropout) -> Tensor:
        """Sum over the chunk's tokens."""
        network, plan = self.network, self.plan
        item, first, target = (self._tensor(x).long() for x in (chunk.item, chunk.first, chunk.target))
        gap = None if chunk.gap is None else self._tensor(chunk.gap).long()
        weight = self._tensor(chunk.weight)
        table = network.item_table()
        wait = self._wait(chunk, dropout.body.stream) if network.request is not None else None
        hidden = network(table, item, gap, first, dropout, plan.dtype, wait)
        hidden, output = network.output(hidden, table, plan.temperature)
        if plan.loss == "softmax":
            return streamed_softmax_loss(hidden, output, target, weight)
        output = output.to(plan.dtype)
        if plan.loss == "softmax-reference":
            return softmax_loss_reference(hidden, output, target, weight)
        negatives = self._negatives(dropout.body.stream)
        return sampled_softmax_loss(hidden, output, target, weight, negatives, self._log_expected)

    def _wait(self, chunk: Chunk, stream: torch.Generator) -> Tensor | None:
        if chunk.next_gap is None:
            return None
        wait = self._tensor(chunk.next_gap).long()
        hidden = torch.rand(len(wait), generator=stream, device=wait.device) < self.plan.unknown_wait
        return wait.masked_fill(hidden, 0)

    def _negatives(self, stream: torch.Generator) -> Tensor:
        chance = self._log_expected.exp()
        return torch.multinomial(chance, self.plan.negatives, replacement=True, generator=stream)

    def _tensor(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(self.device)

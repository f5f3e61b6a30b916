"""The task "what comes next": histories, network and loss, as something `fit` can train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding, pad

from slipstream.randomness import derive, generator
from slipstream.training.dropout import MaskPool
from slipstream.training.losses import softmax_loss_reference, streamed_softmax_loss
from slipstream.training.packing import Chunk, Histories, PackingPlan, chunks
from slipstream.training.sampled_losses import Candidates, gbce_beta, gbce_loss, sampled_softmax_loss
from slipstream.training.transformer_network import Dropout, SparseRows, TransformerNetwork


@dataclass(frozen=True)
class NextItemPlan:
    """How the task is posed. shards: chunks whose gradients are formed apart and then summed, in this order,
    so that one thread and two give the same bits."""

    packing: PackingPlan
    shards: int = 1
    dropout: float = 0.2
    attention_dropout: float = 0.2
    temperature: float = 0.05
    loss: Literal["softmax", "softmax-reference", "sampled", "gbce"] = "softmax"
    negatives: int = 512
    calibration: float = 0.75  # t of gBCE
    unknown: float = (
        0.1  # share of tokens of which the request head is told nothing, so that it can do without
    )
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
        people: sp.csr_matrix | None = None,
    ) -> None:
        """people [U, F]: the features of the users whose histories these are."""
        self.people = people
        self.network = network.to(device)
        self.histories = histories
        self.plan = plan
        self.seed = seed
        self.device = device
        counts = np.bincount(histories.item, minlength=network.shape.items)
        chance = self._chance(counts)
        self._log_expected = torch.from_numpy(np.log(plan.negatives * chance)).float().to(device)
        self._cumulated = torch.from_numpy(np.cumsum(chance)).to(device)
        inputs = np.maximum(np.diff(histories.offsets) - 1, 0)
        last = plan.packing.last
        self.tokens = int((np.minimum(inputs, last) if last else inputs).sum() * (1 - plan.packing.deletion))

    def _chance(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each item, that a draw of a negative is it: half uniform, half by popularity; gBCE: uniform."""
        uniform = np.full(len(counts), 1 / len(counts))
        if self.plan.loss == "gbce":
            return uniform
        chance: NDArray[np.float64] = (uniform + counts / max(counts.sum(), 1)) / 2
        return chance

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
        stream = dropout.body.stream
        wait, person = self._wait(chunk, stream), self._person(chunk, stream)
        hidden = network(table, item, gap, first, dropout, plan.dtype, wait, person)
        if plan.loss in ("sampled", "gbce"):
            return self._sampled_loss(hidden, table, target, weight, stream)
        hidden, output = network.output(hidden, table, plan.temperature)
        if plan.loss == "softmax":
            return streamed_softmax_loss(hidden, output, target, weight)
        return softmax_loss_reference(hidden, output.to(plan.dtype), target, weight)

    def _sampled_loss(
        self, hidden: Tensor, table: Tensor, target: Tensor, weight: Tensor, stream: torch.Generator
    ) -> Tensor:
        """Only the rows of the targets and of the sample are looked at."""
        plan, count = self.plan, self.plan.negatives
        negatives = self._negatives(stream)
        rows = embedding(torch.cat([negatives, target.flatten()]), table)
        hidden, rows = self.network.output(hidden, rows, plan.temperature)
        rows = rows.to(plan.dtype)
        own = rows[count:].view(*target.shape, -1)
        candidates = Candidates(own, target, weight, rows[:count], negatives)
        if plan.loss == "gbce":
            beta = gbce_beta(count, len(self._cumulated), plan.calibration)
            return gbce_loss(hidden, candidates, beta)
        return sampled_softmax_loss(hidden, candidates, self._log_expected[negatives])

    def _person(self, chunk: Chunk, stream: torch.Generator) -> Tensor | None:
        """The features of each token's user times their matrix, [L, 2 D]; zero in empty slots."""
        head = self.network.request
        if self.people is None or head is None or head.person is None:
            return None
        users, place = np.unique(chunk.user, return_inverse=True)
        rows = SparseRows.of(self.people[users], self.device).times(head.person)
        person = pad(rows[self._tensor(place)], (0, 0, 0, len(chunk.item) - chunk.tokens))
        return person.masked_fill(self._hidden(len(person), stream)[:, None], 0)

    def _wait(self, chunk: Chunk, stream: torch.Generator) -> Tensor | None:
        if chunk.next_gap is None or self.network.request is None or self.network.request.time is None:
            return None
        wait = self._tensor(chunk.next_gap).long()
        return wait.masked_fill(self._hidden(len(wait), stream), 0)

    def _hidden(self, tokens: int, stream: torch.Generator) -> Tensor:
        return torch.rand(tokens, generator=stream, device=self.device) < self.plan.unknown

    def _negatives(self, stream: torch.Generator) -> Tensor:
        """Draws by the cumulated chances: O(N log I), where a multinomial would pass over all items."""
        draws = torch.rand(self.plan.negatives, generator=stream, device=self.device, dtype=torch.float64)
        found = torch.searchsorted(self._cumulated, draws * self._cumulated[-1], right=True)
        return found.clamp_max(len(self._cumulated) - 1)

    def _tensor(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(self.device)

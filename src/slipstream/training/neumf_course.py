"""How neural matching learns: a product and a small network score the same pairs, against sampled items.

Batches as in `people.py`. The softmax over a sample is shared by the batch, so the network runs on
[events, sample] pairs; that product is what the model costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slipstream.config import Progress
from slipstream.randomness import derive
from slipstream.training.people import Material, Outcome, Weights, learn, people_batch, torch_threads


@dataclass(frozen=True)
class Course:
    """What the training needs from the model's settings."""

    dim: int
    tower: bool
    tower_dim: int
    hidden: int
    epochs: int
    lr: float
    weight_decay: float
    dropout: float
    negatives: int
    users_per_batch: int
    events_per_user: int
    patience: int


def run(
    material: Material,
    course: Course,
    *,
    seed: int,
    validate: Callable[[Weights], float] | None,
    progress: Progress,
) -> Outcome:
    """Train on one thread. Raises Diverged where the loss is not finite."""
    with torch_threads(1):
        network = _Network(material, course, derive(seed, "neumf"))
        return learn("neumf", network, material, course, seed, validate, progress)


class _Network:
    """The parameters, and the loss of a batch of people."""

    def __init__(self, material: Material, course: Course, seed: int) -> None:
        self.material, self.course = material, course
        draw = torch.Generator().manual_seed(seed)
        users, d, t, h = len(material.offsets) - 1, course.dim, course.tower_dim, course.hidden

        def normal(*shape: int, scale: float) -> Tensor:
            return (torch.randn(*shape, generator=draw) * scale).requires_grad_()

        counts = np.bincount(material.item, minlength=material.items)
        self.weights: dict[str, Tensor] = {
            "item": normal(material.items, d, scale=1 / math.sqrt(d)),
            "person": normal(users, d, scale=0.1 / math.sqrt(d)),
            "product": torch.ones(d).requires_grad_(),
            "popularity": torch.tensor(np.log1p(counts), dtype=torch.float32).requires_grad_(),
        }
        if course.tower:
            self.weights |= {
                "tower_item": normal(material.items, t, scale=1 / math.sqrt(t)),
                "tower_person": normal(users, t, scale=0.1 / math.sqrt(t)),
                "from_person": normal(t, h, scale=1 / math.sqrt(t)),
                "from_item": normal(t, h, scale=1 / math.sqrt(t)),
                "first_bias": torch.zeros(h).requires_grad_(),
                "second": normal(h, h // 2, scale=math.sqrt(2 / h)),
                "second_bias": torch.zeros(h // 2).requires_grad_(),
                "last": normal(h // 2, scale=0.1 / math.sqrt(h)),
            }
        noise = (counts + 1.0) ** 0.75
        self.noise = noise / noise.sum()  # [I] chance of each item as a negative

    def loss(self, users: NDArray[np.int64], draw: np.random.Generator) -> Tensor:
        row, item, chosen = people_batch(self.material, users, self.course.events_per_user, draw)
        others = (torch.bincount(row, minlength=len(users)) - 1).clamp(min=1)
        people = torch.from_numpy(users)
        sample = torch.from_numpy(draw.choice(self.material.items, self.course.negatives, p=self.noise))
        asked, target = row[chosen], item[chosen]

        def person(items: str, own: str) -> Tensor:
            vectors = self.weights[items]
            total = torch.zeros(len(users), vectors.shape[1]).index_add(0, row, vectors[item])
            mean = (total[asked] - vectors[target]) / others[asked][:, None].sqrt()
            return functional.dropout(mean + self.weights[own][people][asked], self.course.dropout)

        w = self.weights
        user = person("item", "person") * w["product"]  # [B, d]
        own = (user * w["item"][target]).sum(1) + w["popularity"][target]  # [B]
        other = user @ w["item"][sample].T + w["popularity"][sample]  # [B, N]
        if self.course.tower:
            left = person("tower_item", "tower_person") @ w["from_person"] + w["first_bias"]  # [B, h]
            right = w["tower_item"] @ w["from_item"]  # [I, h]
            own = own + self._top(left + right[target])
            other = other + self._top(left[:, None, :] + right[sample][None, :, :])
        # Sampled softmax with the log of the expected count taken off (logQ).
        expected = torch.from_numpy(np.log(self.noise * self.course.negatives)).float()
        own, other = own - expected[target], other - expected[sample]
        other = other.masked_fill(sample[None, :] == target[:, None], -1e9)
        return functional.cross_entropy(torch.cat([own[:, None], other], 1), torch.zeros_like(target))

    def _top(self, first: Tensor) -> Tensor:
        """[..., h] to [...]: the rest of the network."""
        w = self.weights
        second = functional.relu(functional.relu(first) @ w["second"] + w["second_bias"])
        return second @ w["last"]

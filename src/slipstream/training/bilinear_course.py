"""How the bilinear model learns: every event of a person is told from the others, over all items or a sample.

A batch holds people. For each of their chosen events the history is everything else they touched, so no event
helps to predict itself. Knows arrays only, not the model that asks.
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
from slipstream.training.people import (
    Material,
    Outcome,
    Weights,
    learn,
    people_batch,
    sparse_tensor,
    torch_threads,
)

ITEM, USER, MATRIX, POPULARITY, BIAS = "item", "user", "matrix", "popularity", "bias"
ITEM_FEATURE, USER_FEATURE = "item_feature", "user_feature"


@dataclass(frozen=True)
class Course:
    """What the training needs from the model's settings."""

    dim: int
    epochs: int
    lr: float
    weight_decay: float
    dropout: float
    loss: str  # "softmax" over all items | "sampled" softmax | "logistic" with sampled negatives
    negatives: int
    users_per_batch: int
    events_per_user: int
    patience: int
    own_vector: bool


def run(
    material: Material,
    course: Course,
    *,
    seed: int,
    threads: int,
    validate: Callable[[Weights], float] | None,
    progress: Progress,
) -> Outcome:
    """Train; the best weights by validation, else the last. Raises Diverged where the loss is not finite."""
    with torch_threads(threads):
        network = _Network(material, course, derive(seed, "bilinear"))
        return learn("bilinear", network, material, course, seed, validate, progress)


class _Network:
    """The parameters, and the loss of a batch of people."""

    def __init__(self, material: Material, course: Course, seed: int) -> None:
        self.material, self.course = material, course
        draw = torch.Generator().manual_seed(seed)
        d, users = course.dim, len(material.offsets) - 1

        def table(rows: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(rows, d, generator=draw) * scale / math.sqrt(d)).requires_grad_()

        counts = np.bincount(material.item, minlength=material.items)
        self.popularity = torch.tensor(np.log1p(counts), dtype=torch.float32).requires_grad_()
        self.weights: dict[str, Tensor] = {
            ITEM: table(material.items),
            MATRIX: (torch.eye(d) + 0.05 * torch.randn(d, d, generator=draw)).requires_grad_(),
            POPULARITY: self.popularity,
            BIAS: torch.zeros(1).requires_grad_(),
        }
        if course.own_vector:
            self.weights[USER] = table(users, 0.1)
        self.item_content = sparse_tensor(material.item_features)
        self.user_content = sparse_tensor(material.user_features)
        if material.item_features is not None:
            self.weights[ITEM_FEATURE] = table(material.item_features.shape[1], 0.3)
        if material.user_features is not None:
            self.weights[USER_FEATURE] = table(material.user_features.shape[1], 0.3)
        noise = (counts + 1.0) ** 0.75
        self.noise = noise / noise.sum()  # [I] chance of each item as a negative

    def item_vectors(self) -> Tensor:
        """[I, d]: the item's own vector and the mean of its features' vectors."""
        vectors = self.weights[ITEM]
        if self.item_content is not None:
            vectors = vectors + torch.sparse.mm(self.item_content, self.weights[ITEM_FEATURE])
        return vectors

    def person_vectors(self, users: Tensor) -> Tensor:
        """[B, d]: the part of the user vector that is not the history."""
        vectors = torch.zeros(len(users), self.course.dim)
        if USER in self.weights:
            vectors = vectors + self.weights[USER][users]
        if self.user_content is not None:
            own = self.user_content.index_select(0, users)
            vectors = vectors + torch.sparse.mm(own, self.weights[USER_FEATURE])
        return vectors

    def loss(self, users: NDArray[np.int64], draw: np.random.Generator) -> Tensor:
        row, item, chosen = people_batch(self.material, users, self.course.events_per_user, draw)
        vectors = self.item_vectors()
        history = vectors[item]
        total = torch.zeros(len(users), self.course.dim).index_add(0, row, history)
        others = torch.bincount(row, minlength=len(users)) - 1
        asked, target = row[chosen], item[chosen]
        mean = (total[asked] - history[chosen]) / others[asked].clamp(min=1)[:, None].sqrt()
        user = mean + self.person_vectors(torch.from_numpy(users))[asked]
        user = functional.dropout(user, self.course.dropout) @ self.weights[MATRIX]
        return self._contrast(user, target, vectors, draw)

    def _contrast(self, user: Tensor, target: Tensor, vectors: Tensor, draw: np.random.Generator) -> Tensor:
        bias = self.weights[POPULARITY]
        if self.course.loss == "softmax":
            return functional.cross_entropy(user @ vectors.T + bias, target)
        sample = torch.from_numpy(draw.choice(self.material.items, self.course.negatives, p=self.noise))
        own = (user * vectors[target]).sum(1) + bias[target]
        other = user @ vectors[sample].T + bias[sample]
        if self.course.loss == "logistic":
            b = self.weights[BIAS]
            good = functional.softplus(-(own + b)).mean()
            return good + functional.softplus(other + b).mean()
        # Sampled softmax with the log of the expected count taken off (logQ; Bengio & Senécal 2008).
        expected = torch.from_numpy(np.log(self.noise * self.course.negatives)).float()
        own, other = own - expected[target], other - expected[sample]
        other = other.masked_fill(sample[None, :] == target[:, None], -1e9)
        return functional.cross_entropy(torch.cat([own[:, None], other], 1), torch.zeros_like(target))

"""How the bilinear model learns: every event of a person is told from the others, over all items or a sample.

A batch holds people. For each of their chosen events the history is everything else they touched, so no event
helps to predict itself. Knows arrays only, not the model that asks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slipstream.config import Progress
from slipstream.errors import Diverged
from slipstream.randomness import derive, generator

Weights = dict[str, NDArray[np.float32]]

ITEM, USER, MATRIX, POPULARITY, BIAS = "item", "user", "matrix", "popularity", "bias"
ITEM_FEATURE, USER_FEATURE = "item_feature", "user_feature"
LONGEST_HISTORY = 400
"""Events of a person in one step; a longer history is sampled anew each time."""


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


@dataclass(frozen=True)
class Material:
    """`item[offsets[u]:offsets[u+1]]`: the distinct items of a user. Features: [I, F] and [U, F] or None."""

    offsets: NDArray[np.int64]
    item: NDArray[np.int32]
    items: int
    item_features: sp.csr_matrix | None
    user_features: sp.csr_matrix | None


@dataclass
class Outcome:
    weights: Weights
    curve: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0


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
    with _threads(threads):
        network = _Network(material, course, derive(seed, "bilinear"))
        return _epochs(network, material, course, seed, validate, progress)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        self.item_content = _sparse(material.item_features)
        self.user_content = _sparse(material.user_features)
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
        row, item, chosen = self._batch(users, draw)
        vectors = self.item_vectors()
        history = vectors[item]
        total = torch.zeros(len(users), self.course.dim).index_add(0, row, history)
        others = torch.bincount(row, minlength=len(users)) - 1
        asked, target = row[chosen], item[chosen]
        mean = (total[asked] - history[chosen]) / others[asked].clamp(min=1)[:, None].sqrt()
        user = mean + self.person_vectors(torch.from_numpy(users))[asked]
        user = functional.dropout(user, self.course.dropout) @ self.weights[MATRIX]
        return self._contrast(user, target, vectors, draw)

    def _batch(self, users: NDArray[np.int64], draw: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(row of each history event, its item, the places of the events that are predicted)."""
        rows, items, chosen, at = [], [], [], 0
        for row, user in enumerate(users):
            own = self.material.item[self.material.offsets[user] : self.material.offsets[user + 1]]
            if len(own) > LONGEST_HISTORY:
                own = draw.choice(own, LONGEST_HISTORY, replace=False)
            rows.append(np.full(len(own), row))
            items.append(own)
            count = min(len(own), self.course.events_per_user)
            chosen.append(at + draw.choice(len(own), count, replace=False))
            at += len(own)
        join = np.concatenate
        return tuple(torch.from_numpy(join(parts).astype(np.int64)) for parts in (rows, items, chosen))  # type: ignore[return-value]

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

    def arrays(self) -> Weights:
        return {name: weight.detach().numpy().copy() for name, weight in self.weights.items()}


def _sparse(matrix: sp.csr_matrix | None) -> Tensor | None:
    if matrix is None:
        return None
    coo = matrix.tocoo()
    places = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
    return torch.sparse_coo_tensor(
        places, torch.from_numpy(coo.data), coo.shape, check_invariants=True
    ).coalesce()


def _epochs(
    network: _Network,
    material: Material,
    course: Course,
    seed: int,
    validate: Callable[[Weights], float] | None,
    progress: Progress,
) -> Outcome:
    usable = np.flatnonzero(np.diff(material.offsets) >= 2)
    outcome = Outcome(network.arrays())
    optimizer = torch.optim.AdamW(
        list(network.weights.values()), lr=course.lr, betas=(0.9, 0.98), weight_decay=course.weight_decay
    )
    batches = max(1, math.ceil(len(usable) / course.users_per_batch))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (batches * course.epochs))
    best, stale, started = -math.inf, 0, time.perf_counter()
    for epoch in range(1, course.epochs + 1 if len(usable) else 1):
        loss = _one_epoch(network, usable, course, optimizer, schedule, (seed, epoch))
        row = {"epoch": float(epoch), "loss": loss, "wall_s": round(time.perf_counter() - started, 2)}
        outcome.curve.append(row)
        value = validate(network.arrays()) if validate is not None else -loss
        if validate is not None:
            row["validation_ndcg@10"] = value
        progress(epoch, course.epochs, f"loss {loss:.3f}" + (f", NDCG@10 {value:.4f}" if validate else ""))
        if validate is None or value > best:
            best, stale = value, 0
            outcome.weights, outcome.best_epoch = network.arrays(), epoch
        else:
            stale += 1
            if stale >= course.patience:
                break
    return outcome


def _one_epoch(
    network: _Network,
    usable: NDArray[np.int64],
    course: Course,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    stream: tuple[int, int],
) -> float:
    seed, epoch = stream
    draw = generator(seed, "bilinear epoch", epoch)
    torch.manual_seed(derive(seed, "bilinear dropout", epoch))
    order = draw.permutation(usable)
    losses = []
    for start in range(0, len(order), course.users_per_batch):
        optimizer.zero_grad(set_to_none=True)
        loss = network.loss(order[start : start + course.users_per_batch], draw)
        if not torch.isfinite(loss):
            raise Diverged(
                f"the loss of the bilinear model is not finite in epoch {epoch}",
                hint="try a smaller --set bilinear.lr",
            )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses))

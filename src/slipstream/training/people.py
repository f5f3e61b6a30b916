"""Learning from people and what they touched: batches of people, and the loop over the epochs.

Every chosen event of a person is told from the rest of what that person touched. Knows arrays and tensors
only, not the model that asks. Used by the bilinear and the neural matching course.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from slipstream.config import Progress
from slipstream.errors import Diverged
from slipstream.randomness import derive, generator

Weights = dict[str, NDArray[np.float32]]

LONGEST_HISTORY = 400
"""Events of a person in one step; a longer history is sampled anew each time."""


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


class Plan(Protocol):
    """What the loop needs from the settings of a course."""

    @property
    def epochs(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def users_per_batch(self) -> int: ...
    @property
    def patience(self) -> int: ...


class Learner(Protocol):
    """Parameters, and the loss of a batch of people."""

    weights: dict[str, Tensor]

    def loss(self, users: NDArray[np.int64], draw: np.random.Generator) -> Tensor: ...


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def people_batch(
    material: Material, users: NDArray[np.int64], events_per_user: int, draw: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(row of each history event, its item, the places of the events that are predicted)."""
    rows, items, chosen, at = [], [], [], 0
    for row, user in enumerate(users):
        own = material.item[material.offsets[user] : material.offsets[user + 1]]
        if len(own) > LONGEST_HISTORY:
            own = draw.choice(own, LONGEST_HISTORY, replace=False)
        rows.append(np.full(len(own), row))
        items.append(own)
        count = min(len(own), events_per_user)
        chosen.append(at + draw.choice(len(own), count, replace=False))
        at += len(own)
    join = np.concatenate
    return tuple(torch.from_numpy(join(parts).astype(np.int64)) for parts in (rows, items, chosen))  # type: ignore[return-value]


def learn(
    name: str,
    network: Learner,
    material: Material,
    course: Plan,
    seed: int,
    validate: Callable[[Weights], float] | None,
    progress: Progress,
) -> Outcome:
    """The epochs: AdamW, a rate that falls to 0, the best weights by validation (else the last).

    Raises Diverged where the loss is not finite. name: of the model, for streams of chance and messages.
    """
    usable = np.flatnonzero(np.diff(material.offsets) >= 2)
    outcome = Outcome(arrays_of(network))
    optimizer = torch.optim.AdamW(
        list(network.weights.values()), lr=course.lr, betas=(0.9, 0.98), weight_decay=course.weight_decay
    )
    batches = max(1, math.ceil(len(usable) / course.users_per_batch))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (batches * course.epochs))
    best, stale, cpu_s = -math.inf, 0, 0.0
    for epoch in range(1, course.epochs + 1 if len(usable) else 1):
        begun = time.process_time()
        loss = _one_epoch(name, network, usable, course, optimizer, schedule, (seed, epoch))
        cpu_s += time.process_time() - begun
        row = {"epoch": float(epoch), "loss": loss, "train_cpu_s": round(cpu_s, 3)}
        outcome.curve.append(row)
        value = validate(arrays_of(network)) if validate is not None else -loss
        if validate is not None:
            row["validation_ndcg@10"] = value
        progress(epoch, course.epochs, f"loss {loss:.3f}" + (f", NDCG@10 {value:.4f}" if validate else ""))
        if validate is None or value > best:
            best, stale = value, 0
            outcome.weights, outcome.best_epoch = arrays_of(network), epoch
        else:
            stale += 1
            if stale >= course.patience:
                break
    return outcome


def arrays_of(network: Learner) -> Weights:
    """A copy of the parameters."""
    return {name: weight.detach().numpy().copy() for name, weight in network.weights.items()}


def _one_epoch(
    name: str,
    network: Learner,
    usable: NDArray[np.int64],
    course: Plan,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    stream: tuple[int, int],
) -> float:
    seed, epoch = stream
    draw = generator(seed, f"{name} epoch", epoch)
    torch.manual_seed(derive(seed, f"{name} dropout", epoch))
    order = draw.permutation(usable)
    losses = []
    for start in range(0, len(order), course.users_per_batch):
        optimizer.zero_grad(set_to_none=True)
        loss = network.loss(order[start : start + course.users_per_batch], draw)
        if not torch.isfinite(loss):
            raise Diverged(
                f"the loss of {name} is not finite in epoch {epoch}",
                hint=f"try a smaller --set {name}.lr",
            )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses))


def sparse_tensor(matrix: sp.csr_matrix | None) -> Tensor | None:
    if matrix is None:
        return None
    coo = matrix.tocoo()
    places = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
    return torch.sparse_coo_tensor(
        places, torch.from_numpy(coo.data), coo.shape, check_invariants=True
    ).coalesce()

"""The one training loop: shards of a batch in threads, AdamW, validation, the best weights, checkpoints.

A run depends on its settings, data and seed alone: gradients of shards are summed in a fixed order, and every
random stream is named by seed, epoch and shard. So the same run gives the same bits with one thread or two,
and a run that was killed goes on from its last epoch as if nothing had happened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slipstream.config import Progress, silent
from slipstream.errors import BadInput, Diverged
from slipstream.inference.packed_weights import Packed
from slipstream.training.checkpoints import (
    Checkpoint,
    optimizer_tensors,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)
from slipstream.training.next_item import NextItemTask
from slipstream.training.packing import Chunk
from slipstream.training.ranks import Part, Ranks
from slipstream.training.transformer_network import Dropout

Weights = dict[str, np.ndarray]
Validate = Callable[[Weights], float]
"""Higher is better."""


@dataclass(frozen=True)
class FitPlan:
    """How long and how fast. The learning rate falls in a line from lr to 0 over `epochs`."""

    epochs: int
    lr: float
    table_lr: float
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0  # decay per step of the averaged weights; 0: none are kept
    warmup: float = 0.0  # epochs
    patience: int = 0  # validations without a better value before it stops; 0: never
    validate_every: int = 1
    validate_from: int = 0  # epochs before the first validation
    threads: int = 1


@dataclass
class FitOutcome:
    """weights: the best by validation (the last without one); with ema, the averaged ones of that time.

    codes: what the item table is made of, where it was learned as product codes.
    """

    weights: Weights
    curve: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = -math.inf
    stopped: str = "all epochs done"
    codes: Packed | None = None


def fit(
    task: NextItemTask,
    plan: FitPlan,
    *,
    validate: Validate | None = None,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    ranks: Ranks | None = None,
) -> FitOutcome:
    """Train the task's network. Raises Diverged with the step where a loss is not finite.

    ranks: the processes that do it together; each gets the same outcome, the first one keeps the checkpoint.
    """
    if task.tokens == 0:
        raise BadInput("no history has two events, so there is nothing to learn an order from")
    ranks = ranks or Ranks()
    with _one_thread():
        run = _Run(task, plan, validate, progress if ranks.first else silent, ranks)
        if checkpoint is not None and (found := read_checkpoint(checkpoint, fingerprint)) is not None:
            run.restore(found)
        ranks.check_same("settings, data and seed", int(fingerprint[:15] or "0", 16))
        ranks.check_same("checkpoint", run.step)
        while not run.finished:
            run.epoch_once()
            if checkpoint is not None and ranks.first:
                write_checkpoint(checkpoint, fingerprint, run.state())
        return run.outcome()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Intra-op threads off: on shared cores their barriers wait for the descheduled one, many times over."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    def __init__(
        self,
        task: NextItemTask,
        plan: FitPlan,
        validate: Validate | None,
        progress: Progress,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.task, self.plan, self.validate, self.progress = task, plan, validate, progress
        named = {n: p for n, p in task.network.named_parameters() if p.requires_grad}
        self.names: dict[Tensor, str] = {p: n for n, p in named.items()}
        self.parameters: list[Tensor] = list(named.values())
        tables = [p for n, p in named.items() if n in ("item", "feature")]
        others = [p for n, p in named.items() if n not in ("item", "feature")]
        groups = [{"params": tables, "scale": plan.table_lr}, {"params": others, "scale": plan.lr}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=plan.lr, betas=(0.9, 0.98), weight_decay=plan.weight_decay, fused=True
        )
        self.per_epoch = task.batches_per_epoch()
        self.epoch = 0
        self.step = 0
        self.stale = 0
        self.cpu_s = 0.0
        self.best: dict[str, Tensor] = {}
        self.average = [p.detach().clone() for p in self.parameters] if plan.ema else []
        self.result = FitOutcome({})
        self.finished = plan.epochs == 0

    def epoch_once(self) -> None:
        begun, cpu = time.perf_counter(), time.process_time()
        loss, tokens = self._train_epoch()
        self.epoch += 1
        self.cpu_s += time.process_time() - cpu
        row = {"epoch": float(self.epoch), "loss": loss, "train_cpu_s": round(self.cpu_s, 3)}
        row["events_per_s"] = round(tokens / max(time.perf_counter() - begun, 1e-9), 1)
        last = self.epoch == self.plan.epochs
        if self.validate is not None and self._is_due(last):
            value = self.ranks.agree(partial(self._value, self.validate))
            row["validation_ndcg@10"] = value
            self._judge(value)
        elif self.validate is None and last:
            self._keep()
        self.result.curve.append(row)
        self.finished = self.finished or last
        self._tell(row, begun)

    def _value(self, validate: Validate) -> float:
        with self._averaged():
            return validate(self.task.network.weights())

    def _is_due(self, last: bool) -> bool:
        plan = self.plan
        return last or (self.epoch > plan.validate_from and self.epoch % plan.validate_every == 0)

    def _train_epoch(self) -> tuple[float, int]:
        """Mean loss per token, and how many tokens."""
        total, tokens = 0.0, 0
        plan, shards = self.plan, self.task.plan.shards
        masks = {shard: self.task.dropout(self.epoch, shard) for shard in self.ranks.own(shards)}
        workers = min(plan.threads, len(masks))
        inner = max(1, plan.threads // max(shards, 2))  # two threads on one chunk wait more than they work
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(inner,)) as pool:
            for number, batch in enumerate(self.task.batches(self.epoch)):
                self._set_rate(self.epoch + min(number / self.per_epoch, 1.0))
                count = sum(chunk.tokens for chunk in batch)
                own = self.ranks.own(len(batch))
                work = ([batch[s] for s in own], [masks[s] for s in own], [count] * len(own))
                parts = self.ranks.gather(list(pool.map(self._gradients, *work)), len(batch), self.parameters)
                total += self._update(parts) * count
                tokens += count
                self.progress(self.step, self.per_epoch * plan.epochs, "")
        return total / max(tokens, 1), tokens

    def _gradients(self, chunk: Chunk, masks: Dropout, count: int) -> Part:
        loss = self.task.loss(chunk, masks) / count
        return float(loss.detach()), torch.autograd.grad(loss, self.parameters)

    def _update(self, parts: list[Part]) -> float:
        """One step of the optimizer with the sum of the shards' gradients; their loss."""
        loss = sum(value for value, _ in parts)
        for parameter, *gradients in zip(self.parameters, *(g for _, g in parts), strict=True):
            total = gradients[0]
            for other in gradients[1:]:
                total = total + other
            parameter.grad = total
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        self.step += 1
        if not math.isfinite(loss) or not bool(torch.isfinite(norm)):
            raise Diverged(
                f"training diverged at step {self.step} (epoch {self.epoch + 1}): the loss is {loss}, "
                f"the norm of the gradient {float(norm)}",
                hint="lower lr, or set precision=float32",
            )
        self.optimizer.step()
        self._follow()
        return loss

    def _follow(self) -> None:
        """average += (1 - decay) · (weights - average); faster at first, to forget the start soon."""
        if self.average:
            decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The network with the averaged weights, where there are any."""
        if not self.average:
            yield
            return
        own = [p.detach().clone() for p in self.parameters]
        self._put(self.average)
        try:
            yield
        finally:
            self._put(own)

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, values)

    def _set_rate(self, done: float) -> None:
        """`done` in epochs."""
        plan = self.plan
        factor = min(1.0, (done + 1e-9) / plan.warmup) if plan.warmup else 1.0
        factor *= max(0.0, 1.0 - done / plan.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * factor

    def _judge(self, value: float) -> None:
        if value > self.result.best_value:
            self.result.best_value = value
            self._keep()
            self.stale = 0
            return
        self.stale += 1
        if self.plan.patience and self.stale >= self.plan.patience:
            self.result.stopped = f"validation did not improve {self.stale} times"
            self.finished = True

    def _keep(self) -> None:
        kept = self.average or self.parameters
        self.best = {n: p.detach().clone() for n, p in zip(self.names.values(), kept, strict=True)}
        self.result.best_epoch = self.epoch

    def _tell(self, row: dict[str, float], begun: float) -> None:
        plan = self.plan
        left = (plan.epochs - self.epoch) * (time.perf_counter() - begun)
        note = f"epoch {self.epoch}/{plan.epochs}, loss {row['loss']:.4f}"
        if "validation_ndcg@10" in row:
            note += f", validation NDCG@10 {row['validation_ndcg@10']:.4f}"
        note += f", {row['events_per_s']:,.0f} events/s"
        note += f", {left:.0f} s left" if not self.finished else f", {self.result.stopped}"
        self.progress(self.step, self.per_epoch * plan.epochs, note)

    def state(self) -> Checkpoint:
        tensors = {f"parameter/{name}": p for p, name in self.names.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        average = zip(self.names.values(), self.average, strict=False)
        tensors |= {f"average/{name}": value for name, value in average}
        tensors |= optimizer_tensors(self.optimizer, self.names)
        r = self.result
        about: dict[str, Any] = {
            "epoch": self.epoch, "step": self.step, "stale": self.stale, "cpu_s": self.cpu_s,
            "finished": self.finished, "curve": r.curve, "best_epoch": r.best_epoch,
            "best_value": None if math.isinf(r.best_value) else r.best_value, "stopped": r.stopped,
        }  # fmt: skip
        return Checkpoint(tensors, about)

    def restore(self, found: Checkpoint) -> None:
        self._put([found.tensors[f"parameter/{name}"] for name in self.names.values()])
        device = self.parameters[0].device
        if self.average:
            self.average = [found.tensors[f"average/{name}"].to(device) for name in self.names.values()]
        self.best = {n.removeprefix("best/"): t for n, t in found.tensors.items() if n.startswith("best/")}
        restore_optimizer(self.optimizer, self.names, found.tensors)
        about, r = found.about, self.result
        self.epoch, self.step, self.stale = about["epoch"], about["step"], about["stale"]
        self.cpu_s, self.finished = about["cpu_s"], about["finished"]
        r.curve, r.best_epoch, r.stopped = about["curve"], about["best_epoch"], about["stopped"]
        r.best_value = -math.inf if about["best_value"] is None else about["best_value"]

    def outcome(self) -> FitOutcome:
        if self.best:
            self._put([self.best[name] for name in self.names.values()])
        self.result.weights = self.task.network.weights()
        return self.result

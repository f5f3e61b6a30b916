"""Several processes that train one model: each forms the gradients of some shards, all sum all of them.

`torchrun` starts the processes and tells each which one it is. Every process reads the same data and draws
the same chunks; shard s belongs to process s modulo their number. Gradients travel shard by shard and are
summed in the order of the shards, as one process alone would, so the bits are the same however many processes
there are. The price is traffic: shards · parameters · 4 bytes a step. Tested with gloo on processors; nccl
takes the same path and was never run on hardware.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from slipstream.config import Launch
from slipstream.errors import ConfigError

PATIENCE = timedelta(hours=2)  # the others wait for the first process while it validates

LETTING_GO = 0.5  # seconds; gloo's threads need some microseconds of them

Part = tuple[float, Sequence[Tensor]]
"""Loss and gradients of one shard."""


def _leave() -> None:
    """Called at exit: lends the interpreter's lock out once more.

    A thread of gloo lets go of an exchange's tensors some time after the exchange was waited for, and needs
    the lock for it. Once the interpreter is being taken down, asking for it ends the process with SIGABRT.
    """
    time.sleep(LETTING_GO)
    dist.destroy_process_group()


class Ranks:
    """The processes of a training, seen from one of them. Alone, every method is free."""

    def __init__(self, launch: Launch | None = None, device: str = "cpu") -> None:
        launch = launch or Launch()
        self.rank, self.count, self.device = launch.rank, launch.processes, device
        if self.count > 1 and not dist.is_initialized():
            backend = "nccl" if device.startswith("cuda") else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)
            atexit.register(_leave)

    @property
    def first(self) -> bool:
        """Whether this process validates, writes checkpoints and tells how it goes."""
        return self.rank == 0

    def own(self, shards: int) -> range:
        """The shards that this process works on."""
        return range(self.rank, shards, self.count)

    def gather(self, parts: list[Part], shards: int, like: Sequence[Tensor]) -> list[Part]:
        """The parts of all shards, in order, from those of the own ones. `like`: the parameters."""
        if self.count == 1:
            return parts
        sizes = [p.numel() for p in like]
        found: list[Part] = []
        for begin in range(0, shards, self.count):
            number = begin // self.count
            mine = like[0].new_zeros(1 + sum(sizes))
            if number < len(parts):
                loss, gradients = parts[number]
                torch.cat([mine.new_tensor([loss]), *(g.flatten() for g in gradients)], out=mine)
            received = [torch.empty_like(mine) for _ in range(self.count)]
            dist.all_gather(received, mine)
            for flat in received[: shards - begin]:
                pieces = zip(torch.split(flat[1:], sizes), like, strict=True)
                found.append((float(flat[0]), [piece.view_as(p) for piece, p in pieces]))
        return found

    def agree(self, value: Callable[[], float]) -> float:
        """What the first process finds; the others do not ask."""
        if self.count == 1:
            return value()
        shared = torch.tensor([value() if self.first else 0.0], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared[0])

    def check_same(self, what: str, number: int) -> None:
        """Raises ConfigError, in every process, unless all hold the same number (below 2**63)."""
        if self.count == 1:
            return
        mine = torch.tensor([number], dtype=torch.int64, device=self.device)
        received = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(received, mine)
        if len({int(value) for value in received}) > 1:
            raise ConfigError(
                f"the processes of this training do not have the same {what}",
                hint="start all with the same arguments, on data and a checkpoint folder that all can see",
            )

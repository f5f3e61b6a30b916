"""What a training that is killed leaves behind, and how the next one goes on from there, to the bit.

Written at the end of an epoch as an artifact (checksummed, swapped in whole, no pickle). Random streams are
named by seed and epoch, so none has to be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slipstream.artifacts import open_artifact, writing
from slipstream.errors import ConfigError, CorruptArtifact, NotThere

KIND = "training-checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """tensors: named parameters, their best form and optimizer moments. about: counters and the curve."""

    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]


def write_checkpoint(path: Path, fingerprint: str, checkpoint: Checkpoint) -> None:
    with writing(
        path, KIND, {"fingerprint": fingerprint, "finished": checkpoint.about["finished"]}
    ) as writer:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
        save_file(tensors, writer.file("tensors.safetensors"))
        writer.json("about", checkpoint.about)


def read_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint of this very training, or None where there is none.

    A finished training with other settings or data is history: None. An unfinished one is refused, so that
    hours of work are not lost by a changed setting. A broken one counts as none: its training starts anew.
    """
    try:
        artifact = open_artifact(path, KIND)
    except (NotThere, CorruptArtifact):
        return None
    if artifact.meta["fingerprint"] != fingerprint:
        if artifact.meta["finished"]:
            return None
        raise ConfigError(
            f"{path} holds an unfinished training with other settings, data or seed",
            hint="go on with the settings it was started with, or delete the folder",
        )
    return Checkpoint(load_file(artifact.file("tensors.safetensors")), artifact.json("about"))


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The moments of every parameter under `moment/<key>/<parameter>`."""
    return {
        f"moment/{key}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    parameters = {name: parameter for parameter, name in names.items()}
    for full_name, value in tensors.items():
        if full_name.startswith("moment/"):
            _, key, name = full_name.split("/", 2)
            parameter = parameters[name]
            optimizer.state[parameter][key] = value.to(parameter.device)

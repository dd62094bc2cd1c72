"""Checkpoints of a run: complete or not there at all, and enough to go on bit for bit."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from spatialvla.errors import CheckpointError
from spatialvla.training.optimizer import WeightAverage

PARTIAL = ".partial"
RECORD = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run.

    step: steps done; it is also the position in the sample stream. seconds: time the run has taken so far.
    tensors: by file name (model, average, optimizer, random), then by tensor name.
    identity: what must not change when the run goes on.
    """

    step: int
    seconds: float
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    identity: Mapping[str, Any]


class CheckpointFolder:
    """The checkpoints of one run, newest last; older ones than the last `keep` are deleted."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes under a temporary name, then renames. Raises CheckpointError on a full disk."""
        target = self.folder / f"step_{checkpoint.step:08d}"
        partial = self.folder / f"{PARTIAL}-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        needed = sum(t.nbytes for part in checkpoint.tensors.values() for t in part.values())
        free = shutil.disk_usage(partial).free
        if needed > free:
            raise CheckpointError(
                f"A checkpoint in {self.folder} takes {needed / 1e9:.2f} GB and only {free / 1e9:.2f} GB are "
                "free; make room or choose another output folder."
            )
        for name, tensors in checkpoint.tensors.items():
            save_file(
                {k: v.detach().contiguous() for k, v in tensors.items()}, partial / f"{name}.safetensors"
            )
        record = {
            "step": checkpoint.step,
            "seconds": checkpoint.seconds,
            "files": list(checkpoint.tensors),
            "identity": dict(checkpoint.identity),
        }
        (partial / RECORD).write_text(json.dumps(record, indent=2))
        for file in partial.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        for old in self._complete()[: -self.keep]:
            shutil.rmtree(old)
        return target

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint, None without any. Raises CheckpointError when it cannot be read."""
        for leftover in self.folder.glob(f"{PARTIAL}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        complete = self._complete()
        if not complete:
            return None
        folder = complete[-1]
        try:
            record = json.loads((folder / RECORD).read_text())
            tensors = {name: load_file(folder / f"{name}.safetensors") for name in record["files"]}
            return Checkpoint(record["step"], record["seconds"], tensors, record["identity"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} cannot be read ({error}); delete it to go on from the checkpoint before it."
            ) from error

    def _complete(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step_*") if re.fullmatch(r"step_\d{8}", p.name))


def pack(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None, device: torch.device
) -> dict[str, dict[str, torch.Tensor]]:
    """All state of a run that is tensors, by file name."""
    random = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(device)
    states = {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    packed = {"weights": model.state_dict(), "optimizer": states, "random": random}
    return packed if average is None else packed | {"average": average.average}


def unpack(
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    device: torch.device,
) -> None:
    """The inverse of `pack`, in place. Raises CheckpointError where the tensors are not this model's."""
    try:
        model.load_state_dict(tensors["weights"])
        if average is not None:
            for name, tensor in tensors["average"].items():
                average.average[name].copy_(tensor)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"The checkpoint does not fit this configuration: {error}") from error
    for name, parameter in model.named_parameters():
        state = {
            key.rpartition(".")[2]: value.to(device)
            for key, value in tensors["optimizer"].items()
            if key.rpartition(".")[0] == name
        }
        if state:
            optimizer.state[parameter] = state
    torch.set_rng_state(tensors["random"]["cpu"])
    if device.type == "cuda" and "cuda" in tensors["random"]:
        torch.cuda.set_rng_state(tensors["random"]["cuda"], device)

"""The tensors in a run's checkpoints, by name: weights, their average, the optimizer's and random states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from spatialvla.training.optimizer import WeightAverage
from spatialvla.training.parallel.world import World

WEIGHTS, AVERAGE, OPTIMIZER, RANDOM = "weights/", "average/", "optimizer/", "random/"
"""How the names of each kind begin."""


@dataclass(frozen=True)
class Trained:
    """The tensors that a run changes: plain, or in shards after `shard`.

    of_base: names of the model's tensors that stay as the base's files have them, and are in no checkpoint.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None = None
    of_base: frozenset[str] = frozenset()


def named_tensors(trained: Trained) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by its kind and the parameter's name."""
    tensors = {
        WEIGHTS + name: tensor
        for name, tensor in trained.model.state_dict().items()
        if name not in trained.of_base
    }
    if trained.average is not None:
        tensors |= {AVERAGE + name: tensor for name, tensor in trained.average.average.items()}
    for name, parameter in trained.model.named_parameters():
        for key, value in trained.optimizer.state.get(parameter, {}).items():
            tensors[f"{OPTIMIZER}{name}.{key}"] = value
    return tensors


def frozen_weights(trained: Trained) -> dict[str, torch.Tensor]:
    """The weights that no step changes, by the names that they have in a checkpoint which holds them."""
    learned = {name for name, parameter in trained.model.named_parameters() if parameter.requires_grad}
    weights = trained.model.state_dict()
    return {WEIGHTS + name: tensor for name, tensor in weights.items() if name not in learned}


def make_optimizer_state(trained: Trained, saved: Mapping[str, TensorStorageMetadata]) -> None:
    """Empty tensors for all that the checkpoint holds: an optimizer makes its own in its first step only."""
    parameters = dict(trained.model.named_parameters())
    for path, entry in saved.items():
        name, _, key = path.removeprefix(OPTIMIZER).rpartition(".")
        if not path.startswith(OPTIMIZER) or name not in parameters:
            continue
        parameter, dtype = parameters[name], entry.properties.dtype
        # Moments lie as their parameter does; the count of steps is one number on each rank.
        trained.optimizer.state[parameter][key] = (
            torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
            if entry.size == parameter.shape
            else torch.zeros(entry.size, dtype=dtype, device=parameter.device)
        )


def random_state(world: World) -> dict[str, torch.Tensor]:
    """This rank's, of the CPU and, where it computes there, the GPU."""
    state = {f"{RANDOM}{world.rank}/cpu": torch.get_rng_state()}
    if world.device.type == "cuda":
        state[f"{RANDOM}{world.rank}/cuda"] = torch.cuda.get_rng_state(world.device)
    return state


def set_random_state(state: Mapping[str, torch.Tensor], world: World) -> None:
    """Puts back what `random_state` gave."""
    for name, value in state.items():
        if name.endswith("/cuda"):
            torch.cuda.set_rng_state(value, world.device)
        else:
            torch.set_rng_state(value)


def written_bytes(name: str, tensor: torch.Tensor, world: World) -> int:
    """Bytes this rank adds to the checkpoint; what all have alike counts once."""
    if isinstance(tensor, DTensor):
        return tensor.to_local().nbytes
    return tensor.nbytes if world.is_main or name.startswith(RANDOM) else 0

"""AdamW over the trainable weights, the learning rate's course, and an average of the weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from spatialvla.training.config import TrainConfig


def build_optimizer(
    model: nn.Module, config: TrainConfig, factor: Callable[[str], float] | None = None
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`."""
    groups = parameter_groups(model, config, factor)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def parameter_groups(
    model: nn.Module, config: TrainConfig, factor: Callable[[str], float] | None = None
) -> list[dict[str, Any]]:
    """What is trainable, as an optimizer takes it; matrices decay, while norms, biases and embeddings do not.

    factor: of a parameter's learning rate, by its name, `rate_factor` unless given; each group has one.
    """
    factor = factor or (lambda name: rate_factor(name, config))
    embeddings = {id(p) for module in model.modules() if _embeds(module) for p in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in embeddings
            groups[factor(name), config.weight_decay if decays else 0.0].append(parameter)
    return [
        {"params": parameters, "factor": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def _embeds(module: nn.Module) -> bool:
    """Whether all of a module's parameters are tables that are looked up: also peft's adapter around one."""
    return isinstance(getattr(module, "base_layer", module), nn.Embedding)


def rate_factor(name: str, config: TrainConfig) -> float:
    """The factor of the longest name in `rate_factors` that begins the parameter's."""
    matching = [prefix for prefix in config.rate_factors if name.startswith(prefix)]
    return config.rate_factors[max(matching, key=len)] if matching else 1.0


def course(config: TrainConfig, progress: float) -> float:
    """The share of the peak learning rate once `progress` of the run, in [0, 1], is done."""
    if progress < config.warmup:
        return progress / config.warmup
    left = 1 - min(1.0, (progress - config.warmup) / max(1 - config.warmup, 1e-9))
    decay = left if config.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
    return config.final_rate + (1 - config.final_rate) * decay


def learning_rate(config: TrainConfig, progress: float) -> float:
    """The learning rate once `progress` of the run, in [0, 1], is done."""
    return config.learning_rate * course(config, progress)


def total_steps(config: TrainConfig, samples: int) -> int | None:
    """Steps after which a run on so many samples ends; None where time alone ends it."""
    by_epochs = None if config.epochs is None else math.ceil(config.epochs * samples / config.batch_size)
    return min((count for count in (config.steps, by_epochs) if count is not None), default=None)


def run_fraction(step: int, seconds: float, steps: int | None, minutes: float | None) -> float:
    """How much of a run is done, in [0, 1]: by steps or by time, whichever is further along; None has no end."""
    by_steps = step / steps if steps else 0.0
    by_time = seconds / (60 * minutes) if minutes else 0.0
    return min(1.0, max(by_steps, by_time))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Each group of parameters gets the rate times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


class WeightAverage:
    """Exponential moving average of the trainable weights; it follows faster while the run is young."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), list(self.live.values()), 1 - decay)

    def restart(self) -> None:
        """Averages from the weights as they are now."""
        for name, parameter in self.live.items():
            self.average[name].copy_(parameter.detach())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside this block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.live.items():
            held = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(held)

"""A mean of a run's weights and those that it started from, which forgets less of what they could do.

Wortsman et al., Robust fine-tuning of zero-shot models (arXiv 2109.01903): the weights between a network and what it
was fine-tuned to are networks that can do both.
"""

from __future__ import annotations

from pathlib import Path

import torch

from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.folders import is_run
from spatialvla.model.lora import has_lora
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.training.config_file import kept_config


@torch.no_grad()
def mix_in_start(model: SpatialVLA, processor: Processor, run: Path, share: float) -> None:
    """Moves the weights of a run's model, in place, towards those of the policy that the run started from.

    The depth estimator stays the run's own: no mean of two is one, and none was trained between them.
    share: of the start in the mean, 0 to 1. Raises InputError where the share is another number, the run started from
    none, or their weights do not stand for the same, and CheckpointError where the start cannot be loaded.
    """
    if not 0 <= share <= 1:
        raise InputError(f"The share of the start is a fraction from 0 to 1, not {share:g}.")
    if has_lora(model):
        raise InputError("An adapter stands beside the weights that it started from; merge it, with --merge.")
    config = kept_config(run) if is_run(run) else None
    if config is None or config.policy is None:
        raise InputError(f"{run} is no run that started from a policy; leave --start-share out.")
    try:
        start = SpatialVLA.from_pretrained(config.policy, base=config.base)
        before = Processor.from_pretrained(config.policy)
    except CheckpointError as error:
        raise CheckpointError(
            f"What {run} started from, {config.policy}, cannot be loaded: {error}"
        ) from None
    old, new = start.state_dict(), model.state_dict()
    differs = [
        name.replace("_", " ")
        for name, value in start.config.inputs.items()
        if model.config.inputs[name] != value
    ]
    if before.grid != processor.grid:
        differs.append("action grid")
    if not differs and {name: t.shape for name, t in old.items()} != {
        name: t.shape for name, t in new.items()
    }:
        differs.append("the shapes of their weights, as those in 4 bits do")
    if differs:
        raise InputError(
            f"{run} and {config.policy}, which it started from, differ in {' and '.join(differs)}, so a mean of their "
            "weights has no meaning; leave --start-share out."
        )
    for name, tensor in new.items():
        if tensor.is_floating_point() and not name.startswith("vision_zoe_model."):
            tensor.lerp_(old[name].to(tensor), share)

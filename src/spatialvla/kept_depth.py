"""Depth maps that serve several decisions of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from spatialvla.batch import Batch
from spatialvla.execution import Executor
from spatialvla.model.network import Network


def with_kept_depth(network: Network, batch: Batch, executors: Sequence[Executor], decisions: int) -> Batch:
    """The batch with each episode's depth maps, estimated anew where they have served so many decisions.

    executors: of the episodes, one a row, which keep their maps.
    """
    measured = batch.depth is not None and batch.depth_known is None
    if measured or not network.config.use_vision_zoe:
        return batch
    pixels = batch.pixel_values.unflatten(0, (len(batch), batch.views))
    outdated = [
        row
        for row, executor in enumerate(executors)
        if executor.depth is None or len(executor.depth) != batch.views or executor.depth_age >= decisions
    ]
    if outdated:
        with torch.no_grad():
            estimates = network.depth_source(pixels[outdated].flatten(0, 1))
        for row, depth in zip(outdated, estimates.unflatten(0, (-1, batch.views)), strict=True):
            executors[row].depth, executors[row].depth_age = depth, 0
    for executor in executors:
        executor.depth_age += 1
    kept = torch.cat([executor.depth for executor in executors if executor.depth is not None])
    if batch.depth is not None and batch.depth_known is not None:
        kept = torch.where(batch.depth_known[:, None, None], batch.depth, kept)
    return replace(batch, depth=kept, depth_known=None)

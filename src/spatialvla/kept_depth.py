"""Depth maps that serve several decisions of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from spatialvla.batch import Batch
from spatialvla.collation import Prepared, batch_cameras
from spatialvla.execution import Executor
from spatialvla.model.network import Network


def with_kept_depth(
    network: Network, batch: Batch, rows: Sequence[Prepared], executors: Sequence[Executor], decisions: int
) -> Batch:
    """The batch with each episode's depth maps, estimated anew where they have served so many decisions.

    rows: that the batch was made of. executors: of the episodes, one a row, which keep their maps by camera. All of
    an episode's maps are of one moment: a camera that was not there then makes all be estimated anew.
    """
    measured = batch.depth is not None and batch.depth_known is None
    if measured or not network.config.use_vision_zoe:
        return batch
    cameras = batch_cameras(rows)
    pixels = batch.pixel_values.unflatten(0, (len(batch), batch.views))
    seen = [[camera for camera in cameras if row.views[camera] is not None] for row in rows]
    outdated = [
        row
        for row, executor in enumerate(executors)
        if not set(seen[row]) <= executor.depth.keys() or executor.depth_age >= decisions
    ]
    if outdated:
        wanted = [(row, camera) for row in outdated for camera in seen[row]]
        with torch.no_grad():
            estimates = network.depth_source(
                torch.stack([pixels[row, cameras.index(camera)] for row, camera in wanted])
            )
        for row in outdated:
            executors[row].depth, executors[row].depth_age = {}, 0
        for (row, camera), depth in zip(wanted, estimates, strict=True):
            executors[row].depth[camera] = depth
    for executor in executors:
        executor.depth_age += 1
    nothing = torch.ones_like(pixels[0, 0, 0])
    kept = torch.stack(
        [
            executor.depth[c] if c in of_row else nothing
            for executor, of_row in zip(executors, seen, strict=True)
            for c in cameras
        ]
    )
    if batch.depth is not None and batch.depth_known is not None:
        kept = torch.where(batch.depth_known[:, None, None], batch.depth, kept)
    return replace(batch, depth=kept, depth_known=None)

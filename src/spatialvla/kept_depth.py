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
    """The batch with each episode's depth maps, estimated anew where they are so many decisions old.

    rows: that the batch was made of. executors: of the episodes, one a row, which keep their maps by camera. Maps age
    with every decision, also where a sensor measures depth and none is needed. All of an episode's maps are of one
    moment: a camera that was not there then makes all be estimated anew.
    """
    if not network.config.use_vision_zoe:
        return batch
    for executor in executors:
        if executor.depth_age >= decisions:
            executor.depth, executor.depth_age = {}, 0
    cameras = batch_cameras(rows)
    unmeasured = [
        [camera for camera in cameras if (view := row.views[camera]) is not None and view.depth is None]
        for row in rows
    ]
    _estimate(network, batch, cameras, unmeasured, executors)
    for executor in executors:
        executor.depth_age += 1
    if not any(unmeasured):
        return batch
    nothing = torch.ones_like(batch.pixel_values[0, 0])
    kept = torch.stack(
        [
            executor.depth[camera] if camera in of_row else nothing
            for executor, of_row in zip(executors, unmeasured, strict=True)
            for camera in cameras
        ]
    )
    if batch.depth is not None and batch.depth_known is not None:
        kept = torch.where(batch.depth_known[:, None, None], batch.depth, kept)
    return replace(batch, depth=kept, depth_known=None)


def _estimate(
    network: Network,
    batch: Batch,
    cameras: Sequence[int],
    unmeasured: Sequence[Sequence[int]],
    executors: Sequence[Executor],
) -> None:
    """Gives new maps to the episodes that lack one. unmeasured: each row's cameras that need one."""
    lacking = [
        row for row, executor in enumerate(executors) if not set(unmeasured[row]) <= executor.depth.keys()
    ]
    if not lacking:
        return
    pixels = batch.pixel_values.unflatten(0, (len(batch), batch.views))
    wanted = [(row, camera) for row in lacking for camera in unmeasured[row]]
    with torch.no_grad():
        estimates = network.depth_source(
            torch.stack([pixels[row, cameras.index(camera)] for row, camera in wanted])
        )
    for row in lacking:
        executors[row].depth, executors[row].depth_age = {}, 0
    for (row, camera), depth in zip(wanted, estimates, strict=True):
        executors[row].depth[camera] = depth

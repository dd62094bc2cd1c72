"""What the page shows of one decision: copies small enough to be kept, drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Real, UInt8

from spatialvla.actions.motion_path import MotionPath
from spatialvla.actions.units import ActionUnits
from spatialvla.common.pictures import pixels
from spatialvla.geometry.extrinsics import mirror_extrinsics, project
from spatialvla.serving.dashboard.drawing import camera_jpeg, depth_jpeg
from spatialvla.serving.engine.requests import Timings
from spatialvla.types import ActionChunk, CameraImage, Observation

if TYPE_CHECKING:
    import torch

_SIDE = 640
"""Pixels of a kept picture's longest side, at most."""


@dataclass(frozen=True)
class ShownCamera:
    """What one camera saw.

    image: RGB, at most `_SIDE` pixels. depth: meters over the same view, as `measured` by a sensor or estimated by
    the model; None where it is not known. predicted, sent: pixels of `image` where the fingertips are and where the
    chunk, and what is sent of it, lead them, NaN behind the camera; None where that is not known.
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    depth: Real[np.ndarray, "h w"] | torch.Tensor | None = None
    measured: bool = False
    predicted: Float[np.ndarray, "N 2"] | None = None
    sent: Float[np.ndarray, "M 2"] | None = None

    @cached_property
    def jpeg(self) -> bytes:
        """The picture as a file; takes milliseconds the first time."""
        return camera_jpeg(self.image)

    @cached_property
    def depth_drawn(self) -> tuple[bytes, float, float] | None:
        """The depth in colors as a file of the picture's size, and the meters at the two ends of its colors."""
        if self.depth is None:
            return None
        depth = self.depth if isinstance(self.depth, np.ndarray) else self.depth.float().cpu().numpy()
        return depth_jpeg(depth, self.image.shape[:2])


@dataclass(frozen=True)
class ShownDecision:
    """One decision.

    number: of those of its session. sent: the actions within the limits. clamped: steps that each limit changed.
    """

    number: int
    instruction: str
    cameras: tuple[ShownCamera, ...]
    chunk: ActionChunk
    sent: Float[np.ndarray, "k 7"]
    clamped: Mapping[str, int]
    timings: Timings


def shown_cameras(
    observation: Observation,
    names: tuple[str, ...],
    estimates: Mapping[int, torch.Tensor],
    fingertips: Float[np.ndarray, "3"] | None,
    predicted: Float[np.ndarray, "T 7"],
    sent: Float[np.ndarray, "k 7"],
    units: ActionUnits,
) -> tuple[ShownCamera, ...]:
    """What the cameras saw, copied. Large pictures are thinned out, which is quick, not pretty.

    names: of the policy's cameras. estimates: depth maps by the number of the camera. fingertips: meters in the
    robot's frame. predicted, sent: actions in `units`.
    """
    seen = observation.cameras(names[0])
    paths = [MotionPath.of(actions, units, fingertips) for actions in (predicted, sent)]
    return tuple(
        _shown(name, seen[name], estimates.get(number), paths)
        for number, name in enumerate(names)
        if name in seen
    )


def _shown(
    name: str, seen: CameraImage, estimate: torch.Tensor | None, paths: Sequence[MotionPath]
) -> ShownCamera:
    image = pixels(seen.image)
    color = np.broadcast_to(image[..., :3] if image.ndim == 3 else image[..., None], (*image.shape[:2], 3))
    stride = _stride(color)
    predicted, sent = (_pixels(path, seen, stride) for path in paths)
    measured = (
        None if seen.depth is None else seen.depth[:: _stride(seen.depth), :: _stride(seen.depth)].copy()
    )
    return ShownCamera(
        name,
        color[::stride, ::stride].copy(),
        estimate if measured is None else measured,
        measured is not None,
        predicted,
        sent,
    )


def _stride(picture: np.ndarray) -> int:
    height, width = picture.shape[:2]
    return -(-max(int(height), int(width)) // _SIDE)


def _pixels(path: MotionPath, seen: CameraImage, stride: int) -> np.ndarray | None:
    """Where the path's points are in the thinned out picture; None where that is not known."""
    if path.unplaced or seen.intrinsics is None or seen.extrinsics is None:
        return None
    place = np.asarray(seen.extrinsics, np.float64)
    pixels, _ = project(path.points, seen.intrinsics, mirror_extrinsics(place) if seen.mirrored else place)
    thinned: np.ndarray = pixels / stride
    return thinned

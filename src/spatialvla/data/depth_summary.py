"""What a few frames of a depth sensor tell: its range, its holes, and whether its unit is likely wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NEAREST = 0.02
"""Meters; half of a robot's picture is never nearer to its camera."""

_MOSTLY = 0.9  # of the readings


@dataclass(frozen=True)
class DepthSummary:
    """Depth in numbers.

    size: (height, width). nearest, farthest: q01 and q99 of the readings in meters, 0 where there are none.
    holes: the share of pixels where nothing was measured.
    """

    size: tuple[int, int]
    nearest: float
    farthest: float
    holes: float

    @classmethod
    def of(cls, frames: Sequence[np.ndarray]) -> DepthSummary | None:
        """Of readings (n, H, W) in meters, 0 where nothing was measured; None without any frames."""
        if not frames:
            return None
        pixels = np.concatenate([readings.ravel() for readings in frames])
        measured = pixels[pixels > 0]
        nearest, farthest = np.quantile(measured, (0.01, 0.99)) if measured.size else (0.0, 0.0)
        height, width = frames[0].shape[1:]
        return cls((height, width), float(nearest), float(farthest), 1 - measured.size / pixels.size)


def depth_doubt(readings: np.ndarray) -> str:
    """Why depth (n, H, W) in meters is likely no depth of a scene, or ""."""
    measured = readings[readings > 0]
    if not measured.size:
        return "it is 0 everywhere, which means that nothing was measured"
    median, farthest = float(np.median(measured)), float(measured.max())
    if median < _NEAREST:
        return (
            f"its median is {median:.2g} m, nearer than cameras see; its unit may be meters, not millimeters"
        )
    if (measured == farthest).mean() > _MOSTLY:
        return (
            f"it is {farthest:g} m almost everywhere, as where millimeters were taken for meters and cut off at "
            "the largest depth of a video"
        )
    return ""

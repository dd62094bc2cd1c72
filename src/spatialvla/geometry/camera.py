"""The pinhole camera: intrinsics that follow every resize and crop, and back-projection to metres.

Pixel coordinates have their origin at the image's top left corner, so the first pixel's centre is (0.5, 0.5).
The camera frame is x right, y down, z forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spatialvla.errors import InputError


def check_intrinsics(intrinsics: np.ndarray) -> np.ndarray:
    """K as a (3, 3) float64 array.

    Raises InputError unless K is finite, invertible, upper triangular and ends in (0, 0, 1).
    """
    matrix = np.asarray(intrinsics, dtype=np.float64)
    if matrix.shape != (3, 3):
        raise InputError(f"Intrinsics must be a 3x3 matrix, got shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise InputError("Intrinsics contain NaN or infinity; pass the camera's calibrated K.")
    if not np.array_equal(matrix[2], [0.0, 0.0, 1.0]) or matrix[1, 0] != 0:
        raise InputError("Intrinsics must have the form [[fx, s, cx], [0, fy, cy], [0, 0, 1]].")
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise InputError(
            f"Intrinsics are singular: the focal lengths must be positive, got fx = {matrix[0, 0]:g}, "
            f"fy = {matrix[1, 1]:g}."
        )
    return matrix


def resize_intrinsics(
    intrinsics: np.ndarray, old_size: tuple[int, int], new_size: tuple[int, int]
) -> np.ndarray:
    """K (3, 3) of an image resized from `old_size` to `new_size`, both (height, width) in pixels."""
    scale = np.diag([new_size[1] / old_size[1], new_size[0] / old_size[0], 1.0])
    return scale @ intrinsics


def crop_intrinsics(intrinsics: np.ndarray, left: float, top: float) -> np.ndarray:
    """K (3, 3) of an image whose first `left` columns and `top` rows were cut off."""
    shift = np.eye(3)
    shift[:2, 2] = -left, -top
    return shift @ intrinsics


@dataclass(frozen=True)
class Camera:
    """Intrinsics K (3, 3) of an image of `height` x `width` pixels."""

    intrinsics: np.ndarray
    height: int
    width: int

    def scaled_to(self, height: int, width: int) -> np.ndarray:
        """K of the same camera's image resized to another size."""
        return resize_intrinsics(self.intrinsics, (self.height, self.width), (height, width))

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Camera:
        return cls(check_intrinsics(np.asarray(entry["intrinsic"])), entry["height"], entry["width"])

    def to_json(self) -> dict[str, Any]:
        return {"width": self.width, "height": self.height, "intrinsic": self.intrinsics.tolist()}


def back_project(depth: torch.Tensor, intrinsics: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Depth on a regular grid over the image -> points in the camera frame, K⁻¹ (u, v, 1) · depth (§III-A).

    depth: (B, h, w) metres; each value stands for the centre of its cell of the image.
    intrinsics: (B, 3, 3) in pixels of an image of `image_size` = (height, width).
    Returns (B, h, w, 3) metres. Always computed in float32: in bfloat16 pixel centres would be rounded.
    """
    rows, columns = depth.shape[-2:]
    v = (torch.arange(rows, device=depth.device, dtype=torch.float32) + 0.5) * (image_size[0] / rows)
    u = (torch.arange(columns, device=depth.device, dtype=torch.float32) + 0.5) * (image_size[1] / columns)
    v_grid, u_grid = torch.meshgrid(v, u, indexing="ij")
    # K is [[fx, s, cx], [0, fy, cy], [0, 0, 1]]: its inverse needs no solver, which a GPU would have to be waited for.
    K = intrinsics.float()[..., None, None]
    y = (v_grid - K[:, 1, 2]) / K[:, 1, 1]
    x = (u_grid - K[:, 0, 2] - K[:, 0, 1] * y) / K[:, 0, 0]
    return torch.stack([x, y, torch.ones_like(x)], dim=-1) * depth.float()[..., None]

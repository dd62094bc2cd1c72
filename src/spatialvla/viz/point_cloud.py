"""Colored points from an RGB image, its depth and its camera, and a picture of them from another angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from spatialvla.geometry.camera import check_intrinsics
from spatialvla.geometry.extrinsics import inverse, transform
from spatialvla.vision.ego3d import back_project

# Walls further than this many times the median depth are left out: they would dwarf what is in front of them.
_FAR = 1.6


@dataclass(frozen=True)
class PointCloud:
    """points: (N, 3) meters in a camera's frame (x right, y down, z forward). colors: (N, 3) uint8 RGB."""

    points: np.ndarray
    colors: np.ndarray

    @classmethod
    def from_depth(cls, image: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray) -> PointCloud:
        """Back-projects every depth pixel that is not far behind the scene.

        image: (H, W, 3) uint8 RGB. depth: (h, w) meters over the same view, 0 where nothing was measured.
        intrinsics: K (3, 3) in pixels of `image`.
        """
        matrix = torch.from_numpy(check_intrinsics(intrinsics))[None]
        maps = torch.from_numpy(np.asarray(depth, np.float32))[None]
        points = back_project(maps, matrix, image.shape[:2])[0].reshape(-1, 3).numpy()
        colors = Image.fromarray(image).resize(depth.shape[::-1], Image.Resampling.BOX)
        measured = points[:, 2] > 0
        near = (
            measured & (points[:, 2] <= _FAR * np.median(points[measured, 2])) if measured.any() else measured
        )
        return cls(points[near], np.asarray(colors).reshape(-1, 3)[near])

    def thinned(self, most: int) -> PointCloud:
        """So many of the points, evenly taken; all where there are fewer."""
        if len(self.points) <= most:
            return self
        rows = np.arange(most) * len(self.points) // most
        return PointCloud(self.points[rows], self.colors[rows])

    @classmethod
    def joined(cls, clouds: Sequence[PointCloud], poses: Sequence[np.ndarray]) -> PointCloud:
        """The clouds of several cameras in the frame of the first one, by way of the robot's.

        poses: (4, 4) each, which take the points of each cloud to the robot's frame, in meters.
        """
        to_first = inverse(poses[0])
        points = [transform(to_first @ pose, cloud.points) for cloud, pose in zip(clouds, poses, strict=True)]
        return cls(np.concatenate(points), np.concatenate([cloud.colors for cloud in clouds]))

    def painted(self, color: tuple[int, int, int]) -> PointCloud:
        """All in one color, but for shades."""
        shade = self.colors.mean(axis=1, keepdims=True) / 255
        return PointCloud(self.points, (np.asarray(color) * (0.45 + 0.55 * shade)).astype(np.uint8))

    def render(self, yaw: float, pitch: float, size: tuple[int, int]) -> tuple[np.ndarray, float]:
        """Looks at the cloud, orthographically, from a camera turned around the cloud's center.

        yaw: radians, positive looks from the right. pitch: radians, positive looks from above.
        size: (height, width) in pixels. Returns RGBA (height, width, 4) uint8, clear where there is no point,
        and the meters one pixel spans.
        """
        points = self.points @ _rotation(yaw, pitch).T
        low, high = np.percentile(points[:, :2], [1, 99], axis=0)
        height, width = size
        scale = 1.1 * float(np.max((high - low) / (width, height)))
        pixels = (points[:, :2] - (low + high) / 2) / scale + (width / 2, height / 2)
        return _splat(pixels, points[:, 2], self.colors, size), scale


def _rotation(yaw: float, pitch: float) -> np.ndarray:
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    return np.asarray(tilt @ turn)


def _splat(pixels: np.ndarray, distance: np.ndarray, colors: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Paints each point as a small square, far ones first, so that near ones hide them."""
    height, width = size
    # As wide as the mean spacing of points that fill the picture: no gaps where it is seen head on.
    side = max(1, round(np.sqrt(height * width / len(pixels))))
    offsets = np.stack(np.meshgrid(range(side), range(side)), -1).reshape(-1, 2) - side // 2
    order = np.argsort(-distance, kind="stable")
    corners = (np.floor(pixels[order])[:, None] + offsets).reshape(-1, 2).astype(int)
    inside = ((corners >= 0) & (corners < (width, height))).all(axis=1)
    picture = np.zeros((height, width, 4), np.uint8)
    shown = corners[inside]
    picture[shown[:, 1], shown[:, 0], :3] = np.repeat(colors[order], len(offsets), axis=0)[inside]
    picture[shown[:, 1], shown[:, 0], 3] = 255
    return picture

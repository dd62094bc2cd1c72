"""What a camera saw, as the real camera sees it: pictures that are flipped left to right are flipped back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Real, UInt8

from spatialvla.common.pictures import pixels
from spatialvla.geometry.camera import Camera, mirror_intrinsics
from spatialvla.geometry.extrinsics import transform
from spatialvla.types import CameraImage
from spatialvla.viz.point_cloud import PointCloud

_MOST_POINTS = 10_000
"""Of one picture; more do not show more, and make recordings large."""


@dataclass(frozen=True)
class RealView:
    """A picture with its geometry, right side and right handed.

    image: RGB. intrinsics: K in pixels of `image`, None where it is not known. extrinsics: camera -> robot base, in
    meters, of the real camera (x right, y down, z forward); None where it is not known.
    depths: meters along the optical axis over the same view, 0 where nothing was measured, by what they come from:
    `estimated` or `measured`.
    flipped: whether the picture came flipped.
    """

    image: UInt8[np.ndarray, "H W 3"]
    intrinsics: Real[np.ndarray, "3 3"] | None
    extrinsics: Real[np.ndarray, "4 4"] | None
    depths: dict[str, Real[np.ndarray, "h w"]]
    flipped: bool

    @classmethod
    def of(
        cls, seen: CameraImage, estimate: Real[np.ndarray, "h w"] | None = None, camera: Camera | None = None
    ) -> RealView:
        """estimate: depth over the picture as it came. camera: whose K is taken where the picture has none."""
        image = pixels(seen.image)
        intrinsics = seen.intrinsics
        if intrinsics is None and camera is not None:
            intrinsics = camera.scaled_to(*image.shape[:2])
        depths = {"estimated": estimate, "measured": seen.depth}
        known = {kind: np.asarray(depth, np.float32) for kind, depth in depths.items() if depth is not None}
        view = cls(image, intrinsics, seen.extrinsics, known, seen.mirrored)
        return view._flipped_back() if seen.mirrored else view

    def points(self, kind: str) -> PointCloud | None:
        """Of one depth map in the robot's frame, or in the camera's where its place is not known; None without K."""
        if self.intrinsics is None:
            return None
        cloud = PointCloud.from_depth(self.image, self.depths[kind], self.intrinsics).thinned(_MOST_POINTS)
        if self.extrinsics is None:
            return cloud
        return replace(cloud, points=transform(self.extrinsics, cloud.points))

    def _flipped_back(self) -> RealView:
        K = self.intrinsics
        return replace(
            self,
            image=np.ascontiguousarray(self.image[:, ::-1]),
            intrinsics=None if K is None else mirror_intrinsics(K, self.image.shape[1]),
            depths={kind: np.ascontiguousarray(depth[:, ::-1]) for kind, depth in self.depths.items()},
        )

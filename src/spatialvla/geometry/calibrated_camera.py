"""A calibrated camera: its intrinsics, and where it stands or how the gripper carries it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Real

from spatialvla.errors import InputError
from spatialvla.geometry.camera import LARGEST_DEPTH, Camera
from spatialvla.geometry.extrinsics import (
    check_extrinsics,
    check_hand_eye,
    inverse,
    mirror_extrinsics,
    project,
    wrist_extrinsics,
)

_REACH = 1.5
"""Meters around the base, where arms work; a camera that sees nothing of it is of no use to them."""

_RAYS = 9
"""Along each side of the picture."""

_UPRIGHT, _ASIDE = np.radians(20), np.radians(45)
"""Up to which roll a camera stands upright, and from which it lies on its side."""


@dataclass(frozen=True)
class CalibratedCamera:
    """One camera of a robot, in one resolution.

    camera: K in pixels of pictures of its size, as they are sent.
    extrinsics: (4, 4) camera -> robot base, in meters, of a camera that stands still. hand_eye: (4, 4) camera ->
    gripper, of one that the gripper carries. One of the two is given. Both are of the real camera, whose axes are
    x right, y down, z forward.
    depth_range: nearest and farthest distance in meters that its depth is to be believed; None where it has none.
    mirrored: the pictures are flipped left to right, as LIBERO's are. K is that of the flipped picture.
    Raises InputError for what no camera of a robot can be.
    """

    camera: Camera
    extrinsics: Float[np.ndarray, "4 4"] | None = None
    hand_eye: Float[np.ndarray, "4 4"] | None = None
    depth_range: tuple[float, float] | None = None
    mirrored: bool = False

    def __post_init__(self) -> None:
        if (self.extrinsics is None) == (self.hand_eye is None):
            raise InputError(
                "A calibrated camera has either extrinsics, if it stands still, or hand_eye, if the gripper "
                "carries it; give one of the two."
            )
        if self.extrinsics is not None:
            object.__setattr__(self, "extrinsics", check_extrinsics(self.extrinsics))
            _check_view(self.camera, self.extrinsics, self.mirrored)
        if self.hand_eye is not None:
            object.__setattr__(self, "hand_eye", check_hand_eye(self.hand_eye))
        if (
            self.depth_range is not None
            and not 0 < self.depth_range[0] < self.depth_range[1] <= LARGEST_DEPTH
        ):
            raise InputError(
                f"A depth range of {self.depth_range[0]:g} to {self.depth_range[1]:g} cannot be; give the nearest "
                f"and the farthest distance in meters, up to {LARGEST_DEPTH:g}."
            )

    @property
    def moves(self) -> bool:
        """Whether the gripper carries it, so that its extrinsics follow from the gripper's pose."""
        return self.hand_eye is not None

    def extrinsics_at(
        self, gripper_pose: Real[np.ndarray, "*steps 4 4"] | None = None
    ) -> Float[np.ndarray, "*steps 4 4"]:
        """Extrinsics of the real camera. gripper_pose: gripper -> robot base; a camera that stands still needs none.

        Raises InputError where a camera that moves gets no pose, or none in meters.
        """
        if self.extrinsics is not None:
            if gripper_pose is None:
                return self.extrinsics
            return np.broadcast_to(self.extrinsics, np.shape(gripper_pose))
        if gripper_pose is None:
            raise InputError("The gripper carries this camera; give the gripper's pose to know where it is.")
        assert self.hand_eye is not None  # one of the two is given
        return wrist_extrinsics(gripper_pose, self.hand_eye)

    def picture_pose(
        self, gripper_pose: Real[np.ndarray, "*steps 4 4"] | None = None
    ) -> Float[np.ndarray, "*steps 4 4"]:
        """What takes points that were back-projected by K to the robot's frame: the extrinsics, and for
        mirrored pictures with x turned around, which makes the determinant −1.

        Raises InputError as `extrinsics_at`.
        """
        extrinsics = self.extrinsics_at(gripper_pose)
        return mirror_extrinsics(extrinsics) if self.mirrored else extrinsics

    def project(
        self, points: Real[np.ndarray, "N 3"], gripper_pose: Real[np.ndarray, "4 4"] | None = None
    ) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
        """Pixels and depths, as `project` in `extrinsics`, of points (N, 3) of the robot's frame, in meters."""
        return project(points, self.camera.intrinsics, self.picture_pose(gripper_pose))

    def scaled_to(self, height: int, width: int) -> CalibratedCamera:
        """The same camera with pictures resized to another size.

        Raises InputError for a size of another aspect: what was cut off, or squeezed, the size does not tell.
        """
        camera = self.camera
        if not camera.has_aspect_of(height, width):
            raise InputError(
                f"The camera was calibrated with pictures of {camera.width} x {camera.height} pixels, and {width} x "
                f"{height} has another aspect; send whole pictures, or calibrate it with pictures cropped alike."
            )
        return replace(self, camera=Camera(camera.scaled_to(height, width), height, width))


def _check_view(camera: Camera, extrinsics: Float[np.ndarray, "4 4"], mirrored: bool) -> None:
    """Raises InputError where the matrix leads from the robot to the camera, as far as numbers can tell.

    A camera that lies on its side while the inverse stands upright, or sees nothing of where arms work while
    the inverse does, was given the wrong way round.
    """
    other = inverse(extrinsics)
    if not _sees_reach(camera, extrinsics, mirrored):
        way = "invert the matrix" if _sees_reach(camera, other, mirrored) else "calibrate it again"
        raise InputError(
            f"A camera with these extrinsics sees nothing within {_REACH:g} m of the robot's base; pass camera -> "
            f"robot base ({way})."
        )
    if _roll(extrinsics) > _ASIDE and _roll(other) < _UPRIGHT and _sees_reach(camera, other, mirrored):
        raise InputError(
            "The extrinsics seem to lead from the robot's base to the camera, which would lie on its side; pass "
            "camera -> robot base (invert the matrix)."
        )


def _sees_reach(camera: Camera, extrinsics: Float[np.ndarray, "4 4"], mirrored: bool) -> bool:
    """Whether some pixel's ray comes as close to the base as arms reach."""
    pose = mirror_extrinsics(extrinsics) if mirrored else extrinsics
    u, v = np.meshgrid(np.linspace(0, camera.width, _RAYS), np.linspace(0, camera.height, _RAYS))
    rays = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1) @ np.linalg.inv(camera.intrinsics).T
    ways = rays @ pose[:3, :3].T
    depth = np.maximum(-(ways @ pose[:3, 3]) / (ways**2).sum(axis=1), 0)
    closest = pose[:3, 3] + depth[:, None] * ways
    return bool((np.linalg.norm(closest, axis=1) <= _REACH).any())


def _roll(extrinsics: Float[np.ndarray, "4 4"]) -> float:
    """Radians between the picture's down and the robot's; 0 where the camera looks along the plumb line."""
    right, down, forward = -extrinsics[2, :3]
    return 0.0 if abs(forward) > np.cos(_UPRIGHT) else float(abs(np.arctan2(right, down)))

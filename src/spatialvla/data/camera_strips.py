"""What each camera saw in a few frames of an episode, and where its calibration sees the gripper in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int, UInt8

from spatialvla.data.depth_summary import depth_doubt
from spatialvla.data.episodes import Episode, EpisodeView
from spatialvla.data.mapping_lines import FIRST_CAMERA
from spatialvla.errors import CheckpointError
from spatialvla.geometry.background_shift import background
from spatialvla.geometry.camera_drift import Sighting, find_gripper
from spatialvla.geometry.extrinsics import project

STILL = 1e-5
"""Meters or radians of a motion, below which nothing moves."""

_STANDS = 1e-4
"""Of a matrix: how far a camera's pose may change within an episode while it stands still; numbers are rounded."""

_LOOKS = 48
"""Frames of an episode that are looked at to find the gripper."""


@dataclass(frozen=True)
class CameraStrip:
    """Frames of one camera in one episode.

    readings: (n, h, w) float32 meters, 0 where nothing was measured; None where there are none.
    doubt: why its depth cannot be, or "". frozen: whether a picture comes again, bit for bit, after motions.
    path: (T, 2) pixels at which the calibration sees the gripper in each step of the episode, NaN behind the camera;
    None where the calibration or the gripper's position is not known.
    place: its pose in the robot's frame, camera -> base, mirrored where the pictures are; None where it is not known.
    stands: whether the camera has that pose all the time. sighting: where the gripper was seen, relative to the path.
    still: the background, small and gray.
    """

    images: UInt8[np.ndarray, "n H W 3"]
    readings: Float[np.ndarray, "n h w"] | None
    doubt: str
    frozen: bool
    path: Float[np.ndarray, "T 2"] | None
    place: Float[np.ndarray, "4 4"] | None
    stands: bool
    sighting: Sighting | None
    still: Float[np.ndarray, "b c"]


@dataclass(frozen=True)
class Strip:
    """Frames of one episode, evenly spread. steps: (n,). cameras: by name, the first one first."""

    episode: int
    instruction: str
    steps: Int[np.ndarray, " n"]
    cameras: Mapping[str, CameraStrip] = field(default_factory=dict)


def cameras_of(episode: Episode) -> dict[str, EpisodeView]:
    """All cameras by name, the first one first."""
    return {FIRST_CAMERA: episode, **episode.other_views}


def stands_still(extrinsics: Float[np.ndarray, "T 4 4"]) -> bool:
    """Whether a camera has the same pose at all steps."""
    return bool(len(extrinsics) == 0 or np.ptp(extrinsics, axis=0).max() < _STANDS)


def own_pictures(episode: Episode) -> Int[np.ndarray, " n"]:
    """The steps to look at: the pictures of those that no sample starts at may be of another step."""
    return episode.starts if len(episode.starts) else np.arange(len(episode.actions))


def strip_of(
    index: int, episode: Episode, steps: Sequence[int], positions: Float[np.ndarray, "T 3"] | None
) -> Strip:
    """positions: of the gripper in the robot's frame, in meters. Raises CheckpointError for broken pictures."""
    moves = np.abs(episode.actions[:, :6]) > STILL
    moved = [bool(moves[one:other].any()) for one, other in pairwise(steps)]
    seen = own_pictures(episode)
    looks = seen[np.unique(np.linspace(0, len(seen) - 1, _LOOKS).round().astype(int))]
    cameras = {
        name: _camera_strip(view, list(steps), moved, positions, looks.tolist())
        for name, view in cameras_of(episode).items()
    }
    return Strip(index, episode.instruction, np.array(steps), cameras)


def _camera_strip(
    view: EpisodeView,
    steps: list[int],
    moved: list[bool],
    positions: Float[np.ndarray, "T 3"] | None,
    to_judge: list[int],
) -> CameraStrip:
    """to_judge: the steps in which the gripper is looked for."""
    camera, poses = view.camera, view.extrinsics
    stands = poses is None or stands_still(poses)
    is_judged = positions is not None and camera is not None and poses is not None and stands
    looks = sorted({*steps, *to_judge}) if is_judged else steps
    pictures = view.images(looks)
    images = pictures[np.searchsorted(looks, steps)]
    path = sighting = None
    if positions is not None and camera is not None and poses is not None:
        K = camera.scaled_to(*images.shape[1:3])
        path = np.concatenate(
            [project(at[None], K, pose)[0] for at, pose in zip(positions, poses, strict=True)]
        )
        if is_judged:
            sighting = find_gripper(pictures, positions[looks], K, poses[0])
    again = (np.array_equal(one, other) for one, other in pairwise(images))
    frozen = any(is_same and is_moved for is_same, is_moved in zip(again, moved, strict=True))
    readings, doubt = _depth(view, steps)
    place = None if poses is None or not len(poses) else poses[0]
    return CameraStrip(images, readings, doubt, frozen, path, place, stands, sighting, background(images))


def _depth(view: EpisodeView, steps: Sequence[int]) -> tuple[np.ndarray | None, str]:
    """Readings, if there are any, and why they cannot be used, or ""."""
    try:
        readings = view.depth(steps)
    except CheckpointError as error:
        return None, str(error)
    return readings, "" if readings is None else depth_doubt(readings)

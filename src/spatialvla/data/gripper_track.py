"""Where the gripper is at each step of an episode: by a mapping, or as far as the names of the state's numbers tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spatialvla.data.arm_state import gripper_poses
from spatialvla.data.episodes import CAMERA_POSE, Episode, EpisodeSource, SourceWrapper
from spatialvla.data.lerobot.extrinsics import EXTRINSICS
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.mapping_lines import GripperPose
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.extrinsics import inverse, transform


def position_indices(names: Sequence[str]) -> tuple[int, int, int] | None:
    """Which of the state's numbers are the gripper's position: the first three in a row that are called x, y, z.

    They may have a word in front, the same for all: `eef_x` or `tcp.x`.
    """
    split = [_split(name) for name in names]
    for index in range(len(split) - 2):
        three = split[index : index + 3]
        if [axis for _, axis in three] == ["x", "y", "z"] and len({word for word, _ in three}) == 1:
            return index, index + 1, index + 2
    return None


def gripper_positions(source: EpisodeSource, episode: Episode) -> Float[np.ndarray, "T 3"] | None:
    """In the robot's frame, in meters; None where nothing tells.

    A mapping's line `gripper_pose` tells where, in which unit and in which frame it is. Without one it is the state's
    x, y and z, which are taken to be meters. Raises CheckpointError for poses that can be of no gripper.
    """
    told = _told_pose(source)
    if told is not None:
        try:
            return gripper_poses(told, episode.columns)[:, :3, 3]
        except InputError as error:
            raise CheckpointError(f"gripper_pose: {error}") from None
    indices, state = position_indices(source.state_names), episode.state
    if indices is None or state is None or not len(state):
        return None
    positions = np.asarray(state[:, indices], np.float64)
    if CAMERA_POSE not in episode.columns:
        return positions
    from_base = episode.columns.get(EXTRINSICS, episode.extrinsics)
    if from_base is None:
        return None
    # Both columns are of the same camera, whichever the episode is seen through.
    from_base = np.asarray(from_base, np.float64).reshape(-1, 4, 4)
    in_frame_of_state = np.asarray(episode.columns[CAMERA_POSE], np.float64).reshape(-1, 4, 4)
    moved: np.ndarray = transform(from_base @ inverse(in_frame_of_state), positions[:, None])
    return moved[:, 0]


def _told_pose(source: EpisodeSource) -> GripperPose | None:
    while isinstance(source, SourceWrapper):
        source = source.source
    return source.mapping.gripper_pose if isinstance(source, LeRobotSource) else None


def _split(name: str) -> tuple[str, str]:
    """`eef_X` -> eef, x."""
    *words, axis = name.lower().replace(".", "_").replace("/", "_").split("_")
    return "_".join(words), axis

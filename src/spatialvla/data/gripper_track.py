"""Where the gripper is at each step of an episode, as far as the names of its state's numbers tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spatialvla.data.episodes import Episode
from spatialvla.geometry.extrinsics import inverse, transform

CAMERA_POSE = "observation.camera_pose"
"""The column of the first camera's pose in the frame of the state, where that is not the robot's, as in LIBERO."""


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


def gripper_positions(names: Sequence[str], episode: Episode) -> Float[np.ndarray, "T 3"] | None:
    """In the robot's frame, in the state's unit, which is taken to be meters; None where nothing tells."""
    indices, state = position_indices(names), episode.state
    if indices is None or state is None or not len(state):
        return None
    positions = np.asarray(state[:, indices], np.float64)
    if CAMERA_POSE not in episode.columns:
        return positions
    if episode.extrinsics is None:
        return None
    in_frame_of_state = np.asarray(episode.columns[CAMERA_POSE], np.float64).reshape(-1, 4, 4)
    moved: np.ndarray = transform(episode.extrinsics @ inverse(in_frame_of_state), positions[:, None])
    return moved[:, 0]


def _split(name: str) -> tuple[str, str]:
    """`eef_X` -> eef, x."""
    *words, axis = name.lower().replace(".", "_").replace("/", "_").split("_")
    return "_".join(words), axis

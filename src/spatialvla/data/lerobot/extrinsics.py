"""Where the camera of a LeRobot dataset stands, by a mapping and the stored features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from spatialvla.data.camera_poses import fixed_pose, stored_poses
from spatialvla.data.lerobot.features import Feature
from spatialvla.data.mapping_lines import Extrinsics
from spatialvla.errors import InputError

EXTRINSICS = "observation.extrinsics"
"""The feature that holds them (4, 4) at each step where a mapping does not say otherwise; those of
`observation.images.wrist` are `observation.extrinsics.wrist`, if there are such. They take points that were
back-projected by K to the robot's frame, in meters: camera -> robot base, mirrored (determinant −1) where the picture
is; zeros where they are unknown."""


def check_extrinsics_feature(chosen: str | Extrinsics, features: Mapping[str, Feature], line: str) -> None:
    """Raises InputError where the `line` of a mapping names a feature that holds no extrinsics."""
    name = chosen.feature if isinstance(chosen, Extrinsics) else chosen
    if name is None:
        return
    feature = features.get(name)
    if feature is None or int(np.prod(feature.shape)) != 16:
        raise InputError(
            f"there is no feature '{name}' of 4x4 numbers; give {line} another one, a matrix, or none."
        )


def extrinsics_of(
    chosen: str | Extrinsics, columns: Mapping[str, np.ndarray], steps: int
) -> Float[np.ndarray, "steps 4 4"] | None:
    """Of each step, as `EXTRINSICS` says; None where they are not known.

    chosen: a feature, or a mapping's `extrinsics`. columns: of the episode, from its first step on.
    Raises InputError where what is stored can be of no camera.
    """
    told = chosen if isinstance(chosen, Extrinsics) else Extrinsics(feature=chosen)
    pose = fixed_pose(told)
    if pose is not None:
        return np.broadcast_to(pose, (steps, 4, 4))
    return stored_poses(columns[str(told.feature)], told)

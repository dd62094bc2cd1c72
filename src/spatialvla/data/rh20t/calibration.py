"""RH20T's calibrations: intrinsics, and where each camera stood or how the hand carried it.

A marker lay on the table, and all cameras saw it (`extrinsics.npy`, marker -> camera), while the tool was at a known
pose (`tcp.npy`). The first in-hand camera's place on the tool is published for each robot, so

    base -> marker  =  (marker -> hand camera)⁻¹ · (tool -> hand camera) · (tool -> base)⁻¹
    base -> camera  =  (marker -> camera) · (base -> marker) · (aligned base -> base)

as `extrinsics_base_aligned` of the dataset's API (scene.py) has it. The aligned base is that of tcp_base.npy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from spatialvla.data.rh20t.dictionaries import read_dictionary
from spatialvla.data.rh20t.layout import (
    CALIBRATED_SIZE,
    CONFIGURATIONS,
    Configuration,
    Scene,
    calibration_folder,
)
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera, check_intrinsics
from spatialvla.geometry.extrinsics import inverse, pose_matrix
from spatialvla.geometry.rotations import matrices

FILES = ("intrinsics.npy", "extrinsics.npy", "tcp.npy")
"""In a calibration's folder. Those that know the cameras' intrinsics alone have the first."""

_TURNED_HAND = np.diag([1.0, -1.0, -1.0, 1.0])  # what the API makes of the hand that a Franka reports


@dataclass(frozen=True)
class CalibratedView:
    """One camera of a scene, as far as it was calibrated. Matrices may be of no camera: who uses them checks them.

    camera: K in pixels of 1280x720. extrinsics: (4, 4) camera -> robot base, of one that stands still; hand_eye:
    camera -> tool, of one that the hand carries; in the axes of tcp_base.npy.
    """

    camera: Camera | None = None
    extrinsics: Float[np.ndarray, "4 4"] | None = None
    hand_eye: Float[np.ndarray, "4 4"] | None = None


@dataclass(frozen=True)
class Calibration:
    """The files of one calibration. marker: (4, 4) marker -> camera by serial. tool: (4, 4) tool -> base then."""

    folder: Path
    intrinsics: dict[str | int, Any]
    marker: dict[str, np.ndarray]
    tool: np.ndarray | None

    @classmethod
    def of(cls, scene: Scene, name: str | None) -> Calibration | None:
        """None where the scene has none, or not its files. Raises CheckpointError, naming the file that is broken."""
        folder = calibration_folder(scene, name)
        if folder is None or not (folder / FILES[0]).exists():
            return None
        intrinsics = read_dictionary(folder / FILES[0])
        if not all((folder / file).exists() for file in FILES):
            return cls(folder, intrinsics, {}, None)
        robot = CONFIGURATIONS[scene.configuration]
        return cls(folder, intrinsics, _markers(folder / FILES[1]), _tool(folder / FILES[2], robot))

    def view(self, serial: str, robot: Configuration) -> CalibratedView:
        """Of a camera. Raises CheckpointError, naming the file, for intrinsics that are no camera's."""
        camera, hand = self._camera(serial), robot.in_hand[0]
        if self.tool is None or serial not in self.marker or hand not in self.marker:
            return CalibratedView(camera)
        hand_in_base = self.tool @ inverse(robot.tool_camera)
        in_base = hand_in_base @ self.marker[hand] @ _inverted(self.marker[serial])
        if serial not in robot.in_hand:
            return CalibratedView(camera, inverse(robot.base_axes) @ in_base)
        if serial == robot.in_hand[-1]:  # of which it is not said whose hand it is in
            return CalibratedView(camera)
        return CalibratedView(camera, hand_eye=inverse(robot.tool_axes) @ inverse(self.tool) @ in_base)

    def _camera(self, serial: str) -> Camera | None:
        stored = self.intrinsics.get(serial)
        try:
            return (
                None
                if stored is None
                else Camera(check_intrinsics(np.asarray(stored)[:3, :3]), *CALIBRATED_SIZE)
            )
        except (InputError, IndexError, TypeError) as error:
            raise CheckpointError(
                f"{self.folder / FILES[0]} has no usable camera {serial} ({error}); copy it again."
            ) from error


def _markers(path: Path) -> dict[str, np.ndarray]:
    found = {}
    for serial, stored in read_dictionary(path).items():
        try:
            pose = np.asarray(stored[0], np.float64)
        except (TypeError, ValueError, IndexError, KeyError):
            pose = np.zeros(0)
        if pose.shape != (4, 4):
            raise CheckpointError(f"{path} has no 4x4 matrix of camera {serial}; copy it again.")
        found[str(serial)] = pose
    return found


def _inverted(pose: np.ndarray) -> np.ndarray:
    """NaN where it has no inverse."""
    try:
        return np.asarray(np.linalg.inv(pose))
    except np.linalg.LinAlgError:
        return np.full((4, 4), np.nan)


def _tool(path: Path, robot: Configuration) -> Float[np.ndarray, "4 4"]:
    """tool -> base of a calibration. Its notation: configurations.py and scene.py of the dataset's API."""
    size = 7 if robot.robot in ("flexiv", "ur5") else 6
    try:
        numbers = np.load(path, allow_pickle=False).astype(np.float64).reshape(-1)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy it again.") from error
    if len(numbers) != size or not np.isfinite(numbers).all() or not numbers[3:].any():
        raise CheckpointError(f"{path} has no pose of {size} numbers; copy it again.")
    if robot.robot == "kuka":  # millimeters, and angles about x, y, z
        return pose_matrix(numbers[:3] / 1000, matrices(numbers[None, 3:], "euler")[0])
    if robot.robot == "franka":
        return pose_matrix(numbers[:3], matrices(numbers[None, 3:], "axis_angle")[0]) @ _TURNED_HAND
    quaternion = numbers[[4, 5, 6, 3]]
    return pose_matrix(numbers[:3], matrices(quaternion[None], "quaternion_xyzw")[0])

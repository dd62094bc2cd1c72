"""Where RH20T keeps what, and what its configurations are.

    RH20T_cfg<n>/
      calib/<ms>/intrinsics.npy                            {serial: (3, 4)} of 1280x720 pixels
      calib/<ms>/extrinsics.npy                            {serial: (1, 4, 4)} marker -> camera
      calib/<ms>/tcp.npy                                   the tool's pose then, in the robot's own notation
      task_0001_user_0001_scene_0001_cfg_0001/             one scene; with _human behind it, a person's
        metadata.json                                      finish_time (ms), rating, calib (ms, or -1)
        cam_<serial>/color.mp4, timestamps.npy             {"color": [ms of each frame]}
        cam_<serial>/color/<ms>.jpg                        in the place of color.mp4 once it was extracted
        transformed/tcp_base.npy                           {serial: [{"timestamp": ms, "tcp": (7,)}]}
        transformed/gripper.npy                            {serial: {ms: {"gripper_command", "gripper_info"}}}
    task_description.json                                  {"task_0001": {"task_description_english": …}}

tcp is x y z qw qx qy qz. Sources:
- the dataset's own API (github.com/rh20t/rh20t_api: README, scene.py, transforms.py, extract.py): the layout,
  timestamps.npy, tcp_base.npy, calib, intrinsics.npy, that images were resized from 1280x720 to 640x360;
  its configs.json and configurations.py: in-hand cameras, grippers, and the matrices of each robot;
- the authors' RLDS builder (github.com/Galaxies99/rh20t_dataset_builder): gripper.npy with the width in
  millimeters first, the meaning of rating, `_human`, task_description.json;
- the RLDS conversion of DROID's authors (github.com/kpertsch/rh20t_dataset_converter, cam_definitions.py):
  which serial is which camera. The one on the right side is `secondary`, as in their configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from spatialvla.common.files import inside
from spatialvla.errors import CheckpointError
from spatialvla.geometry.extrinsics import pose_matrix

CALIBRATED_SIZE = (720, 1280)
"""Height and width of the images that intrinsics.npy is for."""

DESCRIPTIONS = "task_description.json"

_SCENE = re.compile(r"(?P<task>task_\d{4})_user_\d{4}_scene_\d{4}_cfg_(?P<configuration>\d{4})")


Robot = Literal["flexiv", "ur5", "franka", "kuka"]


@dataclass(frozen=True)
class Configuration:
    """One of the seven robots. front: serial of its front camera. in_hand: serials that move with the hand.

    width: millimeters of the opened gripper, as the API scales its readings. names: of the cameras by serial.
    tool_camera: (4, 4) tool -> the first in-hand camera (`tc_mat`). base_axes, tool_axes: (4, 4) how the base and the
    tool of tcp_base.npy stand in the robot's own (`align_mat_base`, `align_mat_tcp`).
    """

    robot: Robot
    front: str
    in_hand: tuple[str, ...]
    width: float
    names: Mapping[str, str]
    tool_camera: np.ndarray
    base_axes: np.ndarray
    tool_axes: np.ndarray


_UNPLACED = "104422071090"
"""A camera that every robot's list of in-hand cameras has, and no other: whose hand it is in is not said."""

_ROLES = ("front", "overhead", "side_left", "secondary", "shoulder", "wrist")
_FLEXIV_2_FRANKA = ("037522062165", "104122061850", "104122063678", "105422061350", "036422060215")
_UR5 = ("038522062288", "104422070011", "104122062823", "104122062295", "036422060909", "045322071843")
_KUKA = ("104122061018", "104122060811", "104122064161", "104122063633", "104122061602", "135122070361")


def _quarters(count: int, *position: float) -> np.ndarray:
    """(4, 4) so many quarter turns about z, and a position in meters."""
    turn = np.linalg.matrix_power(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), count % 4)
    return pose_matrix(np.array(position or (0.0, 0.0, 0.0)), turn)


def _configuration(
    robot: Robot,
    width: float,
    serials: tuple[str, ...],
    in_hand: tuple[str, ...],
    tool_camera: np.ndarray,
    base: int = 0,
    tool: int = 0,
) -> Configuration:
    """serials: of the cameras in `_ROLES`. base, tool: quarter turns of the axes."""
    names = dict(zip(serials, _ROLES, strict=True))
    hands = (*in_hand, _UNPLACED)
    return Configuration(
        robot, serials[0], hands, width, names, tool_camera, _quarters(base), _quarters(tool)
    )


CONFIGURATIONS: Mapping[int, Configuration] = {
    1: _configuration(  # Dahuan AG-95
        "flexiv",
        95.0,
        ("750612070851", "035622060973", "039422060546", "750612070853", "038522063145", "043322070878"),
        ("043322070878",),
        _quarters(1, 0, 0.077, 0.2665),
    ),
    2: _configuration(
        "flexiv",
        95.0,
        (*_FLEXIV_2_FRANKA, "104422070042"),
        ("104422070042",),
        _quarters(1, 0, 0.077, 0.2915),
    ),
    3: _configuration(  # WSG-50: its 110 mm divided by 1.1
        "ur5", 100.0, _UR5, ("045322071843",), _quarters(0, 0.027, 0.0775, 0.240), base=2, tool=1
    ),
    4: _configuration(  # Robotiq 2F-85
        "ur5", 85.0, _UR5, ("045322071843",), _quarters(0, 0.027, 0.0775, 0.210), base=2, tool=1
    ),
    5: _configuration(
        "franka",
        80.0,
        (*_FLEXIV_2_FRANKA, "135122079702"),
        ("104422070042", "135122079702"),
        _quarters(-1, 0.033, -0.05, 0.09),
        tool=2,
    ),
    **{
        number: _configuration(  # Robotiq 2F-85
            "kuka", 85.0, _KUKA, ("135122075425", "135122070361"), _quarters(1, 0.035, 0.055, 0.20)
        )
        for number in (6, 7)
    },
}


@dataclass(frozen=True)
class Scene:
    """One recording. task: such as task_0001. configuration: 1 to 7."""

    folder: Path
    task: str
    configuration: int

    @property
    def cameras(self) -> list[str]:
        """Serials of the cameras with color images, sorted."""
        folders = (
            path
            for path in self.folder.glob("cam_*")
            if (path / "color.mp4").exists() or (path / "color").is_dir()
        )
        return sorted(path.name.removeprefix("cam_") for path in folders)

    def camera_folder(self, serial: str) -> Path:
        """Where a camera's images are."""
        return self.folder / f"cam_{serial}"

    def camera_name(self, serial: str) -> str:
        """What a camera beside the first is called."""
        return CONFIGURATIONS[self.configuration].names.get(serial, f"camera_{serial}")


def calibration_folder(scene: Scene, calibration: str | None) -> Path | None:
    """Where a calibration lies; None without one.

    Raises CheckpointError where its name leads out of the dataset's folder.
    """
    if calibration is None:
        return None
    try:
        return inside(scene.folder.parent / "calib", calibration)
    except ValueError as error:
        raise CheckpointError(
            f"{scene.folder}/metadata.json names a calibration elsewhere ({error})."
        ) from None


def scenes(root: Path) -> list[Scene]:
    """The robot's scenes in a RH20T_cfg<n> folder, or in the folder around several, sorted."""
    return sorted(_scenes(root), key=lambda scene: (scene.configuration, scene.folder.name))


def is_rh20t(root: Path) -> bool:
    """Whether there is a scene."""
    return next(_scenes(root), None) is not None


def _scenes(root: Path) -> Iterator[Scene]:
    for parent in (root, *sorted(root.glob("RH20T_cfg*"))):
        if parent.is_dir():
            for folder in parent.iterdir():
                match = _SCENE.fullmatch(folder.name)
                if match and int(match["configuration"]) in CONFIGURATIONS:
                    yield Scene(folder, match["task"], int(match["configuration"]))

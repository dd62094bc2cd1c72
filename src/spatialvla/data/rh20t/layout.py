"""Where RH20T keeps what, and what its configurations are.

    RH20T_cfg<n>/
      calib/<ms>/intrinsics.npy                            {serial: (3, 4)} of 1280x720 pixels
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
  its configs.json and configurations.py: in-hand cameras and grippers;
- the authors' RLDS builder (github.com/Galaxies99/rh20t_dataset_builder): gripper.npy with the width in
  millimeters first, the meaning of rating, `_human`, task_description.json;
- the RLDS conversion of DROID's authors (github.com/kpertsch/rh20t_dataset_converter, cam_definitions.py):
  which serial is the front camera.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from spatialvla.common.files import inside
from spatialvla.errors import CheckpointError

CALIBRATED_SIZE = (720, 1280)
"""Height and width of the images that intrinsics.npy is for."""

DESCRIPTIONS = "task_description.json"

_SCENE = re.compile(r"(?P<task>task_\d{4})_user_\d{4}_scene_\d{4}_cfg_(?P<configuration>\d{4})")


@dataclass(frozen=True)
class Configuration:
    """One of the seven robots. front: serial of its front camera. in_hand: serials that move with the hand.

    width: millimeters of the opened gripper, as the API scales its readings.
    """

    front: str
    in_hand: frozenset[str]
    width: float


def _configuration(front: str, width: float, *in_hand: str) -> Configuration:
    return Configuration(front, frozenset((*in_hand, "104422071090")), width)


CONFIGURATIONS: Mapping[int, Configuration] = {
    1: _configuration("750612070851", 95.0, "043322070878"),  # Flexiv, Dahuan AG-95
    2: _configuration("037522062165", 95.0, "104422070042"),
    3: _configuration("038522062288", 100.0, "045322071843"),  # UR5, WSG-50: its 110 mm divided by 1.1
    4: _configuration("038522062288", 85.0, "045322071843"),  # UR5, Robotiq 2F-85
    5: _configuration("037522062165", 80.0, "104422070042", "135122079702"),  # Franka
    6: _configuration("104122061018", 85.0, "135122075425", "135122070361"),  # Kuka, Robotiq 2F-85
    7: _configuration("104122061018", 85.0, "135122075425", "135122070361"),
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


def calibration_file(scene: Scene, calibration: str | None) -> Path | None:
    """Where the intrinsics of a calibration lie; None without one.

    Raises CheckpointError where its name leads out of the dataset's folder.
    """
    if calibration is None:
        return None
    try:
        return inside(scene.folder.parent / "calib", f"{calibration}/intrinsics.npy")
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

"""Where DROID's cameras stood in each episode, by the files that its authors published afterwards.

A folder with the files of the dataset KarlP/droid on the Hub (its README, "Camera Calibrations"):

    episode_id_to_path.json            {episode: the folder it was recorded in}
    camera_serials.json                {episode: {"ext1_cam_serial": serial, "ext2_cam_serial", "wrist_cam_serial"}}
    intrinsics.json                    {episode: {serial: [fx, cx, fy, cy]}}, or {serial: {"cameraMatrix": [...]}}
    cam2base_extrinsic_superset.json   {episode: {serial: [x, y, z, roll, pitch, yaw]}} of both exterior cameras
    cam2base_extrinsics.json           the same of one; one of the two files is enough, and the first one goes before

Poses are camera -> robot base, in meters and radians of Rz Ry Rx. K is in pixels of 1280x720, as the cameras recorded;
the RLDS files have 320x180. Of the wrist camera only K is published there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.common.json_files import read_json
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import check_extrinsics, pose_matrix
from spatialvla.geometry.rotations import matrices

PATH = "episode_metadata/file_path"
"""The text of an episode that tells the folder it was recorded in."""

_PATHS, _SERIALS, _INTRINSICS = "episode_id_to_path.json", "camera_serials.json", "intrinsics.json"
_POSES = ("cam2base_extrinsic_superset.json", "cam2base_extrinsics.json")
_CAMERAS = {
    "observation/exterior_image_1_left": "ext1_cam_serial",
    "observation/exterior_image_2_left": "ext2_cam_serial",
    "observation/wrist_image_left": "wrist_cam_serial",
}
_SIZE = (720, 1280)
_FOLDERS = ("r2d2-data-full/", "r2d2-data/")


@dataclass(frozen=True)
class _Numbers:
    """Of N episodes and the three cameras; NaN where it is no row of numbers. paths: their numbers by folder."""

    paths: Mapping[str, int]
    intrinsics: np.ndarray
    has_intrinsics: np.ndarray
    poses: np.ndarray
    has_pose: np.ndarray


@dataclass(frozen=True)
class DroidCalibrations:
    """The calibrations in a folder. Files are read when the first episode is asked for, once in a process."""

    folder: Path

    def __post_init__(self) -> None:
        """Raises InputError where files are missing."""
        missing = [name for name in (_PATHS, _SERIALS, _INTRINSICS) if not (self.folder / name).is_file()]
        if not self._pose_files:
            missing.append(" or ".join(_POSES))
        if missing:
            raise InputError(
                f"{self.folder} lacks {', '.join(missing)}; put the files of the dataset KarlP/droid on the Hub there."
            )

    def stamps(self, timed: bool) -> list[str]:
        """Names and sizes of the files, and, where `timed`, their times."""
        names = (_PATHS, _SERIALS, _INTRINSICS, *(path.name for path in self._pose_files))
        found = [(name, (self.folder / name).stat()) for name in names]
        return [f"{name} {status.st_size} {status.st_mtime_ns if timed else ''}" for name, status in found]

    def camera(self, path: str, image: str) -> Camera | None:
        """Of an episode, by what `PATH` says, and the key of a camera's pictures; None where it is not known.

        Raises CheckpointError, naming file and episode, for what is no camera's, as `pose`.
        """
        row, column = self._place(path, image)
        if row is None or not self._numbers.has_intrinsics[row, column]:
            return None
        fx, cx, fy, cy = self._numbers.intrinsics[row, column]
        try:
            return Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), *_SIZE)
        except InputError as error:
            raise self._damaged(_INTRINSICS, path, image, error) from None

    def pose(self, path: str, image: str) -> np.ndarray | None:
        """(4, 4) camera -> robot base, of the same."""
        row, column = self._place(path, image)
        if row is None or not self._numbers.has_pose[row, column]:
            return None
        numbers = self._numbers.poses[row, column]
        try:
            return check_extrinsics(pose_matrix(numbers[:3], matrices(numbers[None, 3:], "euler")[0]))
        except InputError as error:
            raise self._damaged(
                " or ".join(file.name for file in self._pose_files), path, image, error
            ) from None

    @property
    def _pose_files(self) -> list[Path]:
        return [self.folder / name for name in _POSES if (self.folder / name).is_file()]

    def _place(self, path: str, image: str) -> tuple[int | None, int]:
        """Row and column in `_numbers`."""
        if image not in _CAMERAS:
            return None, 0
        return self._numbers.paths.get(_recorded_in(path)), list(_CAMERAS).index(image)

    def _damaged(self, file: str, path: str, image: str, error: InputError) -> CheckpointError:
        return CheckpointError(
            f"{self.folder}/{file} has no usable numbers of {image} in {_recorded_in(path)} ({error}); copy it again, "
            "or take the entry out."
        )

    @cached_property
    def _numbers(self) -> _Numbers:
        paths, serials, intrinsics = (
            read_json(self.folder / name) for name in (_PATHS, _SERIALS, _INTRINSICS)
        )
        poses = [read_json(file) for file in self._pose_files]
        shape = (len(paths), len(_CAMERAS))
        found = _Numbers(
            {}, np.zeros((*shape, 4)), np.zeros(shape, bool), np.zeros((*shape, 6)), np.zeros(shape, bool)
        )
        rows = {}
        for row, (episode, path) in enumerate(paths.items()):
            rows[str(path)] = row
            for column, role in enumerate(_CAMERAS.values()):
                serial = str(_entry(serials, episode).get(role))
                known = _entry(intrinsics, episode).get(serial)
                if known is not None:
                    found.intrinsics[row, column] = _row(known, 4)
                    found.has_intrinsics[row, column] = True
                pose = next(
                    (entry for file in poses if (entry := _entry(file, episode).get(serial)) is not None),
                    None,
                )
                if pose is not None:
                    found.poses[row, column] = _row(pose, 6)
                    found.has_pose[row, column] = True
        return _Numbers(rows, found.intrinsics, found.has_intrinsics, found.poses, found.has_pose)


def _recorded_in(path: str) -> str:
    """Such as ILIAD/success/2023-04-21/Fri_Apr_21_13:39:10_2023, of the whole path of an episode's file."""
    for folder in _FOLDERS:
        path = path.rsplit(folder, 1)[-1]
    return path.split("/trajectory", 1)[0].strip("/")


def _entry(content: Mapping[str, Any], episode: str) -> Mapping[str, Any]:
    entry = content.get(episode)
    return entry if isinstance(entry, Mapping) else {}


def _row(entry: Any, size: int) -> np.ndarray:
    numbers = entry.get("cameraMatrix") if isinstance(entry, Mapping) else entry
    try:
        row = np.asarray(numbers, np.float64)
    except (TypeError, ValueError):
        return np.full(size, np.nan)
    return row if row.shape == (size,) else np.full(size, np.nan)

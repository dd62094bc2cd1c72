"""What one RH20T scene recorded: its frames' times, the tool's pose and the gripper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.common.json_files import read_json
from spatialvla.common.rgb_files import read_rgb
from spatialvla.data.frames import decode_frames
from spatialvla.data.rh20t.dictionaries import read_dictionary
from spatialvla.data.rh20t.layout import CONFIGURATIONS, Scene
from spatialvla.errors import CheckpointError
from spatialvla.geometry.rotations import interpolated

_WIDTHS = ("gripper_command", "gripper_info")
"""Commanded, as it tells a closed gripper from a full one; and measured."""


@dataclass(frozen=True)
class Frames:
    """The color images of one camera. times: (F,) int64 ms, ascending. numbers: (F,) in the video's order."""

    folder: Path
    times: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, folder: Path) -> Frames:
        """Raises CheckpointError where there are none."""
        if (folder / "color.mp4").exists():
            stored = read_dictionary(folder / "timestamps.npy").get("color", [])
            times = np.asarray(stored, dtype=np.int64).reshape(-1)
        else:
            names = (path.stem for path in (folder / "color").glob("*.jpg"))
            times = np.array(sorted(int(name) for name in names if name.isdigit()), dtype=np.int64)
        if not len(times):
            raise CheckpointError(f"{folder} has no color images; copy it again.")
        order = np.argsort(times, kind="stable")
        return cls(folder, times[order], order)

    def images(self, frames: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB.

        Raises CheckpointError, naming the file, where one is broken or ends too early.
        """
        video = self.folder / "color.mp4"
        if video.exists():
            wanted = [int(self.numbers[frame]) for frame in frames]
            found = decode_frames(video, wanted)
            if missing := sorted(set(wanted) - set(found)):
                raise CheckpointError(f"{video} ends before frame {missing[0]}; copy it again.")
            return np.stack([found[number] for number in wanted])
        paths = [self.folder / "color" / f"{self.times[frame]}.jpg" for frame in frames]
        try:
            return np.stack([read_rgb(path.read_bytes()) for path in paths])
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.folder} has an image that cannot be read ({error}); copy it again."
            ) from error


@dataclass(frozen=True)
class Recording:
    """Of the same camera: poses (P, 7) x y z meters, quaternion x y z w, at pose_times (P,) ms, in the base's
    frame; openings (G,) in [0, 1] with 1 = open at opening_times (G,) ms, as commanded; measured: (G,) the same.
    """

    frames: Frames
    pose_times: np.ndarray
    poses: np.ndarray
    opening_times: np.ndarray
    openings: np.ndarray
    measured: np.ndarray

    @classmethod
    def of(cls, scene: Scene, serial: str) -> Recording:
        """Raises CheckpointError, naming the file, where something is missing or broken."""
        tcp = _of_camera(scene.folder / "transformed" / "tcp_base.npy", serial)
        gripper = _of_camera(scene.folder / "transformed" / "gripper.npy", serial)
        try:
            entries = {int(entry["timestamp"]): entry["tcp"] for entry in tcp if entry.get("tcp") is not None}
            pose_times = np.array(sorted(entries), dtype=np.float64)
            poses = np.array([entries[int(time)] for time in pose_times], dtype=np.float64)[
                :, [0, 1, 2, 4, 5, 6, 3]
            ]
            widths = {int(time): _width(entry, *_WIDTHS) for time, entry in gripper.items()}
            measured = {int(time): _width(entry, *_WIDTHS[::-1]) for time, entry in gripper.items()}
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CheckpointError(
                f"{scene.folder}/transformed is not as published ({error!r}); copy it again."
            ) from error
        known = sorted(time for time, width in widths.items() if width is not None)
        if not known or not np.isfinite(poses).all():
            raise CheckpointError(f"{scene.folder}/transformed has no gripper or poses that are not finite.")
        openings, stood = (
            np.clip(
                np.array([found[time] for time in known], np.float64)
                / CONFIGURATIONS[scene.configuration].width,
                0,
                1,
            )
            for found in (widths, measured)
        )
        frames = Frames.of(scene.camera_folder(serial))
        return cls(frames, pose_times, poses, np.array(known, dtype=np.float64), openings, stood)

    def poses_at(self, times: np.ndarray) -> np.ndarray:
        """(T, 7) x y z meters, quaternion x y z w, between the poses that were recorded. times: (T,) ms."""
        positions = [np.interp(times, self.pose_times, self.poses[:, axis]) for axis in range(3)]
        return np.concatenate(
            [np.stack(positions, axis=1), interpolated(self.pose_times, self.poses[:, 3:], times)], axis=1
        )


@dataclass(frozen=True)
class SceneMetadata:
    """What metadata.json says; None where it does not.

    rating: 0 emergency stop, 1 failure, 2 to 9 quality. finish: ms of when the task was done. calibration:
    its folder.
    """

    rating: float | None
    finish: float | None
    calibration: str | None

    @classmethod
    def of(cls, scene: Scene) -> SceneMetadata:
        """Raises CheckpointError, naming the file, where it is missing or broken."""
        content = read_json(scene.folder / "metadata.json", "copy the scene again")
        rating, finish, calibration = (content.get(key) for key in ("rating", "finish_time", "calib"))
        return cls(
            float(rating) if isinstance(rating, int | float) else None,
            float(finish) if isinstance(finish, int | float) else None,
            None if calibration in (None, -1) else str(calibration),
        )


def _of_camera(path: Path, serial: str) -> Any:
    content = read_dictionary(path)
    if serial not in content:
        raise CheckpointError(f"{path} has no camera {serial}, only {', '.join(map(str, content))}.")
    return content[serial]


def _width(entry: Any, *keys: str) -> float | None:
    """In millimeters, of the first key that an entry has."""
    for key in keys:
        if entry.get(key) is not None and len(entry[key]):
            return float(entry[key][0])
    return None

"""What one RH20T scene recorded: its frames' times, the tool's pose, the gripper, and the camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.common.json_files import read_json
from spatialvla.common.pictures import open_picture, to_rgb
from spatialvla.data.frames import decode_frames
from spatialvla.data.rh20t.dictionaries import read_dictionary
from spatialvla.data.rh20t.layout import CALIBRATED_SIZE, CONFIGURATIONS, Scene, calibration_file
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera, check_intrinsics


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
            return np.stack([np.asarray(to_rgb(open_picture(path))) for path in paths])
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.folder} has an image that cannot be read ({error}); copy it again."
            ) from error


@dataclass(frozen=True)
class Recording:
    """Of the same camera: poses (P, 7) x y z meters, quaternion x y z w, at pose_times (P,) ms, in the base's
    frame; openings (G,) in [0, 1] with 1 = open at opening_times (G,) ms.
    """

    frames: Frames
    pose_times: np.ndarray
    poses: np.ndarray
    opening_times: np.ndarray
    openings: np.ndarray

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
            widths = {int(time): _width(entry) for time, entry in gripper.items()}
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CheckpointError(
                f"{scene.folder}/transformed is not as published ({error!r}); copy it again."
            ) from error
        known = sorted(time for time, width in widths.items() if width is not None)
        if not known or not np.isfinite(poses).all():
            raise CheckpointError(f"{scene.folder}/transformed has no gripper or poses that are not finite.")
        opened = np.array([widths[time] for time in known], dtype=np.float64)
        openings = np.clip(opened / CONFIGURATIONS[scene.configuration].width, 0, 1)
        frames = Frames.of(scene.camera_folder(serial))
        return cls(frames, pose_times, poses, np.array(known, dtype=np.float64), openings)


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


def read_camera(scene: Scene, serial: str, calibration: str | None) -> Camera | None:
    """The calibrated camera, K in pixels of 1280x720; None where this camera was not calibrated."""
    path = calibration_file(scene, calibration)
    if path is None or not path.exists():
        return None
    stored = read_dictionary(path).get(serial)
    try:
        return (
            None if stored is None else Camera(check_intrinsics(np.asarray(stored)[:3, :3]), *CALIBRATED_SIZE)
        )
    except (InputError, IndexError, TypeError) as error:
        raise CheckpointError(f"{path} has no usable camera {serial} ({error}); copy it again.") from error


def _of_camera(path: Path, serial: str) -> Any:
    content = read_dictionary(path)
    if serial not in content:
        raise CheckpointError(f"{path} has no camera {serial}, only {', '.join(map(str, content))}.")
    return content[serial]


def _width(entry: Any) -> float | None:
    """The commanded width in millimeters, as it tells a closed gripper from a full one; measured else."""
    for key in ("gripper_command", "gripper_info"):
        if entry.get(key) is not None and len(entry[key]):
            return float(entry[key][0])
    return None

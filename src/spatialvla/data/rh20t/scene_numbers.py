"""All of a scene but its images, at a control rate: made of its recording once, and from then on kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialvla.common.array_files import read_arrays, write_arrays
from spatialvla.common.cache_folder import keep
from spatialvla.data.rh20t.calibration import FILES, CalibratedView, Calibration
from spatialvla.data.rh20t.layout import CALIBRATED_SIZE, CONFIGURATIONS, Scene, calibration_folder
from spatialvla.data.rh20t.recording import Frames, Recording, SceneMetadata
from spatialvla.errors import CheckpointError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.rotations import matrices, motion

_FORMAT = 2  # of the kept files
_STALE_MS = 150.0  # an image this far from its step shows something else
_FRESH = 0.95  # of the starts of a scene; a camera with fewer is missing there
_EMPTY = np.zeros(0)

STATE = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
"""The tool's position in meters and its quaternion with qx ≥ 0, both in the base's frame, and the measured opening of
the gripper as a share of its width."""


@dataclass(frozen=True)
class ViewNumbers:
    """Of one camera. frames: (T,) which of its images belongs to each step. calibrated: as far as it was.

    tool_poses: (T, 7) x y z, quaternion x y z w, of the tool when those images were taken; of in-hand cameras alone.
    """

    images: Frames
    frames: np.ndarray
    calibrated: CalibratedView
    tool_poses: np.ndarray | None


@dataclass(frozen=True)
class SceneNumbers:
    """T steps. actions: (T, 7). starts: (N,) steps whose image is fresh. state: (T, 8), see `STATE`.

    view: of the camera that is taken. others: of those beside it, by name.
    """

    actions: np.ndarray
    starts: np.ndarray
    state: np.ndarray
    view: ViewNumbers
    others: Mapping[str, ViewNumbers]

    @classmethod
    def of(cls, scene: Scene, metadata: SceneMetadata, control_hz: float) -> SceneNumbers:
        """Raises CheckpointError, naming the file, for a damaged scene."""
        serial = _serial(scene)
        recording = Recording.of(scene, serial)
        times = _times(scene, recording, metadata.finish, control_hz)
        calibration = Calibration.of(scene, metadata.calibration)
        view, fresh = _view(scene, serial, recording, times[:-1], recording.frames, calibration)
        starts = np.flatnonzero(fresh)
        others = {}
        for other in scene.cameras:
            if other != serial and (images := _images(scene, other)) is not None:
                found, fresh = _view(scene, other, recording, times[:-1], images, calibration)
                if len(starts) and fresh[starts].mean() >= _FRESH:
                    others[scene.camera_name(other)] = found
        return cls(_actions(recording, times), starts, _state(recording, times[:-1]), view, others)


def kept_numbers(scene: Scene, control_hz: float, cache: Path) -> SceneNumbers:
    """The numbers of a scene, from `cache` where they were read before and the scene's files are the same.

    The pickles of a scene take several times as long to read as one of its images, and hold all eight cameras.
    Raises CheckpointError, naming the file, for a damaged scene.
    """
    metadata = SceneMetadata.of(scene)
    parts = [str(_FORMAT), f"{control_hz:g}", scene.folder.name, *stamps(scene, metadata)]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    path = cache / f"{digest}.npz"
    try:
        return _from_arrays(scene, read_arrays(path))
    except (ValueError, KeyError):
        numbers = SceneNumbers.of(scene, metadata, control_hz)
    keep(path, lambda partial: write_arrays(partial, _as_arrays(numbers)))
    return numbers


def stamps(scene: Scene, metadata: SceneMetadata, timed: bool = True) -> list[str]:
    """Names and sizes of the files that a scene's numbers are made of, and, where `timed`, their times."""
    folder = scene.folder
    paths = [folder / "metadata.json", *folder.glob("transformed/*.npy"), *folder.glob("cam_*/*")]
    calibration = calibration_folder(scene, metadata.calibration)
    if calibration is not None:
        paths += [calibration / name for name in FILES if (calibration / name).exists()]
    statuses = [(path, path.stat()) for path in sorted(paths)]
    return [
        f"{path.parent.name}/{path.name} {found.st_size} {found.st_mtime_ns if timed else ''}"
        for path, found in statuses
    ]


def _as_arrays(numbers: SceneNumbers) -> dict[str, np.ndarray]:
    views = {"": numbers.view, **numbers.others}
    found = {"actions": numbers.actions, "starts": numbers.starts, "state": numbers.state}
    found["views"] = np.asarray(list(views))
    for row, view in enumerate(views.values()):
        told = view.calibrated
        parts = {
            "folder": np.asarray(view.images.folder.name),
            "times": view.images.times,
            "numbers": view.images.numbers,
            "frames": view.frames,
            "intrinsics": None if told.camera is None else told.camera.intrinsics,
            "extrinsics": told.extrinsics,
            "hand_eye": told.hand_eye,
            "tool_poses": view.tool_poses,
        }
        found |= {f"{row}_{name}": _EMPTY if part is None else part for name, part in parts.items()}
    return found


def _from_arrays(scene: Scene, stored: Mapping[str, np.ndarray]) -> SceneNumbers:
    """Raises KeyError or ValueError for other arrays than `_as_arrays` makes."""
    names = stored["views"].tolist()
    view, *others = (_view_from_arrays(scene, stored, row) for row in range(len(names)))
    named = dict(zip(names[1:], others, strict=True))
    return SceneNumbers(stored["actions"], stored["starts"], stored["state"], view, named)


def _view_from_arrays(scene: Scene, stored: Mapping[str, np.ndarray], row: int) -> ViewNumbers:
    def part(name: str) -> np.ndarray | None:
        found = stored[f"{row}_{name}"]
        return found if found.size else None

    images = Frames(
        scene.folder / str(stored[f"{row}_folder"]), stored[f"{row}_times"], stored[f"{row}_numbers"]
    )
    intrinsics = part("intrinsics")
    camera = None if intrinsics is None else Camera(intrinsics, *CALIBRATED_SIZE)
    calibrated = CalibratedView(camera, part("extrinsics"), part("hand_eye"))
    return ViewNumbers(images, stored[f"{row}_frames"], calibrated, part("tool_poses"))


def _view(
    scene: Scene,
    serial: str,
    recording: Recording,
    times: np.ndarray,
    images: Frames,
    calibration: Calibration | None,
) -> tuple[ViewNumbers, np.ndarray]:
    """One camera at the steps' times (T,) in ms, and which of them have a fresh image of it."""
    robot = CONFIGURATIONS[scene.configuration]
    nearest = _nearest(images.times, times)
    taken = images.times[nearest].astype(np.float64)
    calibrated = CalibratedView() if calibration is None else calibration.view(serial, robot)
    poses = None if calibrated.hand_eye is None else recording.poses_at(taken)
    return ViewNumbers(images, nearest, calibrated, poses), np.abs(taken - times) <= _STALE_MS


def _images(scene: Scene, serial: str) -> Frames | None:
    """Of a camera beside the first; None where it has none that can be read, so that the camera is missing."""
    try:
        return Frames.of(scene.camera_folder(serial))
    except CheckpointError:
        return None


def _times(scene: Scene, recording: Recording, finish: float | None, control_hz: float) -> np.ndarray:
    """(T + 1,) ms: from the first moment with an image and a pose to the last, or until `finish`."""
    first = max(recording.frames.times[0], recording.pose_times[0])
    last = min(recording.frames.times[-1], recording.pose_times[-1])
    if finish is not None and finish > first:
        last = min(last, finish)
    count = int((last - first) * control_hz / 1000 + 1e-6)
    if count < 1:
        raise CheckpointError(f"{scene.folder} has no two poses during its video; leave the scene out.")
    return np.asarray(first + np.arange(count + 1) * (1000 / control_hz))


def _actions(recording: Recording, times: np.ndarray) -> np.ndarray:
    """(T, 7) of the steps between T + 1 times in ms."""
    poses = recording.poses_at(times)
    positions, rotations = poses[:, :3], matrices(poses[:, 3:], "quaternion_xyzw")
    moved = motion(positions[:-1], rotations[:-1], positions[1:], rotations[1:], "base")
    held = _held(recording, times[:-1])
    return np.concatenate([moved, recording.openings[held][:, None]], axis=1)


def _state(recording: Recording, times: np.ndarray) -> np.ndarray:
    """(T, 8), see `STATE`."""
    poses = recording.poses_at(times)
    # A quaternion and its negative are the same turn. A tool that points down has qx or qy far from 0.
    poses[:, 3:] *= np.where(poses[:, 3:4] < 0, -1.0, 1.0)
    return np.concatenate([poses, recording.measured[_held(recording, times)][:, None]], axis=1)


def _held(recording: Recording, times: np.ndarray) -> np.ndarray:
    """(T,) the last command or reading of the gripper at each time: it holds until the next."""
    return np.maximum(np.searchsorted(recording.opening_times, times, side="right") - 1, 0)


def _nearest(stamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(T,) the index of the stamp that is closest to each time; both ascend."""
    after = np.clip(np.searchsorted(stamps, times), 1, max(len(stamps) - 1, 1)) % len(stamps)
    before = np.maximum(after - 1, 0)
    return np.where(times - stamps[before] <= stamps[after] - times, before, after)


def _serial(scene: Scene) -> str:
    configuration = CONFIGURATIONS[scene.configuration]
    fixed = [serial for serial in scene.cameras if serial not in configuration.in_hand]
    if not fixed:
        raise CheckpointError(f"{scene.folder} has no fixed camera; copy it again.")
    return configuration.front if configuration.front in fixed else fixed[0]

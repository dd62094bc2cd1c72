"""All of a scene but its images, at a control rate: made of its recording once, and from then on kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialvla.common.array_files import read_arrays, write_arrays
from spatialvla.common.cache_folder import keep
from spatialvla.data.rh20t.layout import CALIBRATED_SIZE, CONFIGURATIONS, Scene, calibration_file
from spatialvla.data.rh20t.recording import Frames, Recording, SceneMetadata, read_camera
from spatialvla.errors import CheckpointError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.rotations import interpolated, matrices, motion

_FORMAT = 1  # of the kept files
_STALE_MS = 150.0  # an image this far from its step shows something else


@dataclass(frozen=True)
class SceneNumbers:
    """T steps. actions: (T, 7). starts: (N,) steps whose image is fresh. frames: (T,) the image of each step.

    images: of the camera that is taken. camera: its intrinsics, where it was calibrated.
    """

    actions: np.ndarray
    starts: np.ndarray
    frames: np.ndarray
    images: Frames
    camera: Camera | None

    @classmethod
    def of(cls, scene: Scene, metadata: SceneMetadata, control_hz: float) -> SceneNumbers:
        """Raises CheckpointError, naming the file, for a damaged scene."""
        serial = _serial(scene)
        recording = Recording.of(scene, serial)
        times = _times(scene, recording, metadata.finish, control_hz)
        nearest = _nearest(recording.frames.times, times[:-1])
        fresh = np.abs(recording.frames.times[nearest] - times[:-1]) <= _STALE_MS
        return cls(
            actions=_actions(recording, times),
            starts=np.flatnonzero(fresh),
            frames=nearest,
            images=recording.frames,
            camera=read_camera(scene, serial, metadata.calibration),
        )


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
    calibration = calibration_file(scene, metadata.calibration)
    if calibration is not None and calibration.exists():
        paths.append(calibration)
    statuses = [(path, path.stat()) for path in sorted(paths)]
    return [
        f"{path.parent.name}/{path.name} {found.st_size} {found.st_mtime_ns if timed else ''}"
        for path, found in statuses
    ]


def _as_arrays(numbers: SceneNumbers) -> dict[str, np.ndarray]:
    return {
        "actions": numbers.actions,
        "starts": numbers.starts,
        "frames": numbers.frames,
        "folder": np.asarray(numbers.images.folder.name),
        "times": numbers.images.times,
        "numbers": numbers.images.numbers,
        "intrinsics": np.zeros((0, 3)) if numbers.camera is None else numbers.camera.intrinsics,
    }


def _from_arrays(scene: Scene, stored: dict[str, np.ndarray]) -> SceneNumbers:
    """Raises KeyError or ValueError for other arrays than `_as_arrays` makes."""
    intrinsics = stored["intrinsics"]
    return SceneNumbers(
        actions=stored["actions"],
        starts=stored["starts"],
        frames=stored["frames"],
        images=Frames(scene.folder / str(stored["folder"]), stored["times"], stored["numbers"]),
        camera=Camera(intrinsics, *CALIBRATED_SIZE) if len(intrinsics) else None,
    )


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
    positions = np.stack(
        [np.interp(times, recording.pose_times, recording.poses[:, axis]) for axis in range(3)], axis=1
    )
    turns = interpolated(recording.pose_times, recording.poses[:, 3:], times)
    rotations = matrices(turns, "quaternion_xyzw")
    moved = motion(positions[:-1], rotations[:-1], positions[1:], rotations[1:], "base")
    # A command holds until the next.
    held = np.maximum(np.searchsorted(recording.opening_times, times[:-1], side="right") - 1, 0)
    return np.concatenate([moved, recording.openings[held][:, None]], axis=1)


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

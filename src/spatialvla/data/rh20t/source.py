"""RH20T as a source of episodes in the form that training knows, at a fixed control rate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from spatialvla.actions.units import STANDARD_GRIPPER, ActionUnits
from spatialvla.common.json_files import read_json
from spatialvla.data.rh20t.layout import CONFIGURATIONS, DESCRIPTIONS, Scene, scenes
from spatialvla.data.rh20t.recording import Frames, Recording, SceneMetadata, read_camera
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.rotations import interpolated, matrices, motion

_SUCCESS = 2  # ratings below are failures and emergency stops
_KEPT = 1024  # scenes: 50 kB each, and to read one again takes longer than to decode an image
_STALE_MS = 150.0  # an image this far from its step shows something else


@dataclass(frozen=True)
class RH20TEpisode:
    """T steps of one scene, see `data.episodes.Episode`. frames: (T,) the camera's frame of each step."""

    instruction: str
    actions: np.ndarray
    starts: np.ndarray
    camera: Camera | None
    source: Frames = field(repr=False)
    frames: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)

    def instruction_at(self, step: int) -> str:
        """A scene has one task."""
        return self.instruction

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """None: a recording's other numbers have clocks of their own."""
        return {}

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB. Raises CheckpointError, naming the file, where it is broken."""
        return self.source.images([int(self.frames[step]) for step in steps])

    def depth(self, steps: Sequence[int]) -> None:
        """None: depth is a download of its own, in lossy videos."""


class RH20TSource:
    """The scenes of a RH20T_cfg<n> folder, or of the folder around several, that a robot finished well.

    Of each scene one camera: the front one of its robot, or the first fixed one where that is missing. The
    motion is that of the tool in the base's axes between poses interpolated at `control_hz`; the gripper is
    the commanded width as a share of the opened one's; a step's image is the closest in time. Steps whose
    closest image is more than 150 ms away are no starts. See `layout` for what is where and who says so.
    control_hz: steps a second. units: of the actions. skipped: why scenes were left out.
    """

    key = "rh20t"
    """The name of its statistics in a checkpoint."""

    def __init__(self, root: str | Path, control_hz: float = 10.0) -> None:
        """Raises InputError without scenes, CheckpointError where task_description.json is missing."""
        self.root = Path(root).expanduser()
        self.control_hz = float(control_hz)
        self.units = ActionUnits(1.0, 1.0, "euler", "base", STANDARD_GRIPPER, self.control_hz)
        self._descriptions = _descriptions(self.root)
        self.skipped: list[str] = []
        self._scenes: list[Scene] = []
        for scene in scenes(self.root):
            if reason := _unusable(scene):
                self.skipped.append(f"{scene.folder}: {reason}")
            else:
                self._scenes.append(scene)
        self._episode = lru_cache(_KEPT)(self._read)
        if not self._scenes:
            raise InputError(
                f"{self.root} has no finished scene of a robot"
                + (f" ({self.skipped[0]})" if self.skipped else "")
                + "; give a RH20T_cfg folder, or the one around them."
            )

    def __reduce__(self) -> tuple[object, ...]:
        return RH20TSource, (self.root, self.control_hz)

    @cached_property
    def fingerprint(self) -> str:
        """Of the scenes, and of the sizes and times of what is read from them."""
        parts = [f"{self.control_hz:g}", repr(sorted(self._descriptions.items()))]
        for scene in self._scenes:
            for path in sorted((*scene.folder.glob("transformed/*.npy"), *scene.folder.glob("cam_*/*"))):
                status = path.stat()
                parts.append(f"{path.relative_to(self.root)} {status.st_size} {status.st_mtime_ns}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    def __len__(self) -> int:
        return len(self._scenes)

    def episode(self, index: int) -> RH20TEpisode:
        """Any episode; the recently used ones are kept.

        Raises InputError for a wrong index, CheckpointError, naming the file, for damaged data.
        """
        if not 0 <= index < len(self):
            raise InputError(f"{self.root} has episodes 0 to {len(self) - 1}, not {index}.")
        return self._episode(index)

    def _read(self, index: int) -> RH20TEpisode:
        scene = self._scenes[index]
        metadata = SceneMetadata.of(scene)
        serial = _serial(scene)
        recording = Recording.of(scene, serial)
        times = self._times(scene, recording, metadata.finish)
        nearest = _nearest(recording.frames.times, times[:-1])
        fresh = np.abs(recording.frames.times[nearest] - times[:-1]) <= _STALE_MS
        return RH20TEpisode(
            instruction=self._descriptions.get(scene.task, "").strip(),
            actions=_actions(recording, times),
            starts=np.flatnonzero(fresh),
            camera=read_camera(scene, serial, metadata.calibration),
            source=recording.frames,
            frames=nearest,
        )

    def _times(self, scene: Scene, recording: Recording, finish: float | None) -> np.ndarray:
        """(T + 1,) ms: from the first moment with an image and a pose to the last, or until `finish`."""
        first = max(recording.frames.times[0], recording.pose_times[0])
        last = min(recording.frames.times[-1], recording.pose_times[-1])
        if finish is not None and finish > first:
            last = min(last, finish)
        count = int((last - first) * self.control_hz / 1000 + 1e-6)
        if count < 1:
            raise CheckpointError(f"{scene.folder} has no two poses during its video; leave the scene out.")
        return np.asarray(first + np.arange(count + 1) * (1000 / self.control_hz))


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


def _unusable(scene: Scene) -> str:
    """Why a scene is left out, or ""."""
    try:
        rating = SceneMetadata.of(scene).rating
    except CheckpointError as error:
        return str(error)
    return f"its rating of {rating:g} says that it failed" if rating is not None and rating < _SUCCESS else ""


def _descriptions(root: Path) -> dict[str, str]:
    """The English instruction of each task."""
    for folder in (root, root.parent):
        path = folder / DESCRIPTIONS
        if path.is_file():
            content = read_json(path)
            return {
                task: str(entry.get("task_description_english", "") if isinstance(entry, dict) else entry)
                for task, entry in content.items()
            }
    raise CheckpointError(
        f"{root / DESCRIPTIONS} is missing; put the dataset's task descriptions there, or into the folder "
        "above."
    )

"""RH20T as a source of episodes in the form that training knows, at a fixed control rate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from spatialvla.actions.units import STANDARD_GRIPPER, ActionUnits
from spatialvla.common.cache_folder import cache_folder
from spatialvla.common.json_files import read_json
from spatialvla.data.episodes import SeenThroughView
from spatialvla.data.rh20t.layout import DESCRIPTIONS, Scene, scenes
from spatialvla.data.rh20t.recording import SceneMetadata
from spatialvla.data.rh20t.scene_numbers import STATE, ViewNumbers, kept_numbers, stamps
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import check_extrinsics, pose_matrix, wrist_extrinsics
from spatialvla.geometry.rotations import matrices

_SUCCESS = 2  # ratings below are failures and emergency stops
_KEPT = 512  # scenes in memory: a quarter of a megabyte each


@dataclass(frozen=True)
class RH20TView:
    """What one camera saw in a scene's T steps, see `data.episodes.EpisodeView`. where: the scene."""

    numbers: ViewNumbers = field(repr=False)
    where: Path

    @property
    def camera(self) -> Camera | None:
        """K in pixels of 1280x720; None where it was not calibrated."""
        return self.numbers.calibrated.camera

    @cached_property
    def extrinsics(self) -> np.ndarray | None:
        """(T, 4, 4) camera -> robot base; of an in-hand camera when its images were taken.

        Raises CheckpointError, naming the scene, where the calibration is no rigid motion.
        """
        told, steps = self.numbers.calibrated, len(self.numbers.frames)
        try:
            if told.extrinsics is not None:
                return np.broadcast_to(check_extrinsics(told.extrinsics), (steps, 4, 4))
            if told.hand_eye is None or self.numbers.tool_poses is None:
                return None
            poses = self.numbers.tool_poses
            tool = pose_matrix(poses[:, :3], matrices(poses[:, 3:], "quaternion_xyzw"))
            return wrist_extrinsics(tool, told.hand_eye)
        except InputError as error:
            raise CheckpointError(
                f"{self.where}: the calibration of {self.numbers.images.folder.name} cannot be used ({error}); copy it "
                "again, or take its extrinsics.npy away."
            ) from None

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB. Raises CheckpointError, naming the file, where it is broken."""
        return self.numbers.images.images([int(self.numbers.frames[step]) for step in steps])

    def depth(self, steps: Sequence[int]) -> None:
        """None: depth is a download of its own, in lossy videos."""


@dataclass(frozen=True)
class RH20TEpisode(SeenThroughView):
    """T steps of one scene, see `data.episodes.Episode`."""

    instruction: str
    actions: np.ndarray
    starts: np.ndarray
    state: np.ndarray
    view: RH20TView
    other_views: Mapping[str, RH20TView]

    def __len__(self) -> int:
        return len(self.actions)

    def instruction_at(self, step: int) -> str:
        """A scene has one task."""
        return self.instruction

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """None: a recording's other numbers have clocks of their own."""
        return {}


class RH20TSource:
    """The scenes of a RH20T_cfg<n> folder, or of the folder around several, that a robot finished well.

    The first camera of each scene is the front one of its robot, or the first fixed one where that is missing. The
    others are called by their places: secondary (on the right), wrist, overhead, side_left, shoulder, or camera_ and
    their serial; one that has a fresh image at fewer than 95 % of the starts is missing. The motion is that of the
    tool in the base's axes between poses interpolated at `control_hz`; the gripper is the commanded width as a share
    of the opened one's; a step's image is the closest in time. Steps whose closest image is more than 150 ms away are
    no starts. See `layout` for what is where and who says so.
    control_hz: steps a second. units: of the actions. left_out: why each other scene is none.
    """

    key = "rh20t"
    """The name of its statistics in a checkpoint."""

    def __init__(self, root: str | Path, control_hz: float = 10.0, cache: Path | None = None) -> None:
        """cache: folder of what was read of scenes once, the user's own unless given.

        Raises InputError without scenes, CheckpointError where task_description.json is missing.
        """
        self.root = Path(root).expanduser()
        self.control_hz = float(control_hz)
        self.units = ActionUnits(1.0, 1.0, "euler", "base", STANDARD_GRIPPER, self.control_hz)
        self.state_names = STATE
        self._cache = cache or cache_folder("rh20t")
        self._descriptions = _descriptions(self.root)
        self.left_out: list[str] = []
        self._scenes: list[Scene] = []
        for scene in scenes(self.root):
            if reason := _unusable(scene):
                self.left_out.append(f"{scene.folder}: {reason}")
            else:
                self._scenes.append(scene)
        self.doubts: tuple[str, ...] = ()
        self._episode = lru_cache(_KEPT)(self._read)
        if not self._scenes:
            raise InputError(
                f"{self.root} has no finished scene of a robot"
                + (f" ({self.left_out[0]})" if self.left_out else "")
                + "; give a RH20T_cfg folder, or the one around them."
            )

    def __reduce__(self) -> tuple[object, ...]:
        return RH20TSource, (self.root, self.control_hz, self._cache)

    @cached_property
    def fingerprint(self) -> str:
        """Of the scenes, and of the sizes and times of what is read from them."""
        return self._digest(timed=True)

    @cached_property
    def contents(self) -> str:
        """Of the scenes, and of the sizes of what is read from them."""
        return self._digest(timed=False)

    def _digest(self, timed: bool) -> str:
        parts = [f"{self.control_hz:g}", repr(sorted(self._descriptions.items()))]
        for scene in self._scenes:
            parts += [
                str(scene.folder.relative_to(self.root)),
                *stamps(scene, SceneMetadata.of(scene), timed),
            ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    def __len__(self) -> int:
        return len(self._scenes)

    def prepare(self, workers: int) -> None:
        """Nothing: steps are read by themselves as it is."""

    def episode(self, index: int) -> RH20TEpisode:
        """Any episode; the recently used ones are kept.

        Raises InputError for a wrong index, CheckpointError, naming the file, for damaged data.
        """
        if not 0 <= index < len(self):
            raise InputError(f"{self.root} has episodes 0 to {len(self) - 1}, not {index}.")
        return self._episode(index)

    def _read(self, index: int) -> RH20TEpisode:
        scene = self._scenes[index]
        numbers = kept_numbers(scene, self.control_hz, self._cache)
        return RH20TEpisode(
            instruction=self._descriptions.get(scene.task, "").strip(),
            actions=numbers.actions,
            starts=numbers.starts,
            state=numbers.state,
            view=RH20TView(numbers.view, scene.folder),
            other_views={name: RH20TView(view, scene.folder) for name, view in numbers.others.items()},
        )


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

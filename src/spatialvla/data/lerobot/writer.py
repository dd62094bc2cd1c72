"""Write a LeRobot v3.0 dataset episode by episode, so that a kill loses at most the one being added."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.common.json_files import read_json, write_json
from spatialvla.data.lerobot import depth_video, video
from spatialvla.data.lerobot.assembly import assemble
from spatialvla.data.lerobot.features import BOOKKEEPING, Feature
from spatialvla.data.lerobot.metadata import VIDEO_PATH, Info, is_dataset
from spatialvla.data.lerobot.staging import StagedEpisode, stage, staged_episodes
from spatialvla.data.lerobot.units import write_units
from spatialvla.errors import InputError
from spatialvla.geometry.camera import LARGEST_DEPTH

_STAGING = ".episodes"
_DESCRIPTION = "dataset.json"


class LeRobotWriter:
    """Writes episodes into the dataset folder `root`.

        writer = LeRobotWriter(root, fps=20, features=[
            Feature("observation.images.agentview", "video", (128, 128, 3)),
            Feature("observation.depth.agentview", "depth", (128, 128)),
            Feature("observation.state", "float32", (8,)),
            Feature("action", "float32", (7,)),
        ], robot_type="franka")
        writer.add_episode({"action": actions, ...}, task="pick up the black bowl")  # as often as needed
        writer.finalize()  # now it can be read

    Complete episodes wait under `root/.episodes` until `finalize` joins them into the files of the format.
    After an interruption, `resume=True` goes on with those; it starts anew where there are none.
    fps: a whole number of frames a second. units: of the feature `action`.

    Raises InputError when `root` already holds a dataset or, without `resume`, an interrupted one; and when
    what is resumed had another fps, robot or features.
    """

    def __init__(
        self,
        root: str | Path,
        fps: int,
        features: Sequence[Feature],
        robot_type: str | None = None,
        resume: bool = False,
        units: ActionUnits = UNKNOWN,
    ) -> None:
        self.root = Path(root)
        self._staging = self.root / _STAGING
        self._info = _describe(fps, features, robot_type)
        self._features = tuple(self._info.features[feature.name] for feature in features)
        self._units = units
        self._episodes: list[StagedEpisode] = []
        self._finished = False
        self._open(resume)

    @property
    def total_episodes(self) -> int:
        """Complete episodes, those taken over by `resume` included."""
        return len(self._episodes)

    @property
    def total_frames(self) -> int:
        """Frames of the complete episodes."""
        return sum(episode.length for episode in self._episodes)

    def add_episode(self, frames: Mapping[str, np.ndarray], task: str | Sequence[str]) -> int:
        """Store one episode and return its index.

        frames: for each feature an array (T, *shape): uint8 for 'video' and 'image', meters for depth (0 where
            there is no reading), numbers otherwise; (T,) will do for shape (1,).
        task: the instruction, or that of each of the T frames.

        Raises InputError when a feature is missing, unknown, misshapen, not finite or of another number type,
        and for depth that must be millimeters or lies outside of its video's range.
        """
        if self._finished:
            raise InputError(f"{self.root} is finalized; write further episodes into a new folder.")
        values = self._checked(frames)
        index, length = self.total_episodes, len(next(iter(values.values())))
        words = [task] * length if isinstance(task, str) else list(task)
        if len(words) != length or not all(isinstance(text, str) and text.strip() for text in words):
            raise InputError("The episode has no task; give its instruction in words, or one for each frame.")
        known = dict.fromkeys(text for episode in self._episodes for text in episode.tasks)
        numbers = {text: number for number, text in enumerate(dict.fromkeys([*known, *words]))}
        frame_index = np.arange(length)
        bookkeeping: dict[str, np.ndarray] = {
            "timestamp": (frame_index / self._info.fps).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.full(length, index),
            "index": self.total_frames + frame_index,
            "task_index": np.array([numbers[text] for text in words]),
        }
        with _disk_errors(self.root):
            self._episodes.append(
                stage(self._staging, self._info, {**values, **bookkeeping}, tuple(dict.fromkeys(words)))
            )
        return index

    def finalize(self) -> None:
        """Join the episodes into a dataset that LeRobot opens. Raises InputError when there are none."""
        if self._finished:
            return
        if not self._episodes:
            raise InputError(f"{self.root} has no episodes; add at least one before finalizing.")
        with _disk_errors(self.root):
            if self._units != UNKNOWN:
                write_units(self.root, self._units)
            assemble(self.root, self._info, self._episodes)
        self._finished = True
        _discard(self._staging)

    def _open(self, resume: bool) -> None:
        description = {
            "fps": self._info.fps,
            "robot_type": self._info.robot_type,
            "features": {name: feature.to_json() for name, feature in self._info.features.items()},
        }
        path = self._staging / _DESCRIPTION
        if not path.exists():
            if is_dataset(self.root):
                raise InputError(f"{self.root} already holds a dataset; write into a new folder.")
            write_json(path, description, checksum=True)
            return
        if not resume:
            raise InputError(
                f"{self.root} holds an interrupted dataset; pass resume=True or delete the folder."
            )
        if read_json(path) != description:
            raise InputError(
                f"{self.root} was begun with another fps, robot or features; resume with the same ones."
            )
        self._episodes = staged_episodes(self._staging)

    def _checked(self, frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The frames in the features' number types."""
        names = {feature.name for feature in self._features}
        if missing := sorted(names - set(frames)):
            raise InputError(f"The episode lacks {', '.join(missing)}; give an array for each feature.")
        if unknown := sorted(set(frames) - names):
            raise InputError(
                f"The episode has {', '.join(unknown)}, which the dataset's features do not name."
            )
        values = {
            feature.name: _converted(feature, np.asarray(frames[feature.name])) for feature in self._features
        }
        lengths = {name: len(value) for name, value in values.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise InputError(
                f"An episode needs equally many frames of each feature, at least one; got {lengths}."
            )
        return values


def forget_empty(root: Path) -> bool:
    """Removes what a writer has begun in a folder, where no episode of it is complete; whether none is."""
    staging = root / _STAGING
    if is_dataset(root) or staged_episodes(staging):
        return False
    if staging.exists():
        _discard(staging)
    return True


def _describe(fps: int, features: Sequence[Feature], robot_type: str | None) -> Info:
    if fps < 1 or fps != int(fps):
        raise InputError(f"fps is {fps}; LeRobot needs a whole number of frames a second.")
    fps = int(fps)
    described: list[Feature] = []
    for feature in features:
        if feature.dtype == "string":
            raise InputError(
                f"Feature '{feature.name}' is text, which cannot be written; use a number or an image."
            )
        if "/" in feature.name or not feature.name:
            raise InputError(f"Feature name '{feature.name}' must be non-empty and without '/'.")
        if feature.dtype == "video":
            height, width, _ = feature.shape
            if height % 2 or width % 2:
                raise InputError(
                    f"Feature '{feature.name}' is {height}x{width}; video needs even sizes, "
                    "so use dtype 'image'."
                )
            feature = replace(feature, info=video.video_info(height, width, fps))
        elif feature.dtype == "depth_video":
            if min(feature.shape) < depth_video.SMALLEST_SIDE:
                raise InputError(
                    f"Feature '{feature.name}' is {feature.shape[0]}x{feature.shape[1]}; depth video needs "
                    f"{depth_video.SMALLEST_SIDE} pixels each way, so use dtype 'depth'."
                )
            height, width = feature.shape
            feature = replace(feature, info=depth_video.video_info(height, width, fps, feature.info))
        described.append(feature)
    named = {feature.name: feature for feature in (*described, *BOOKKEEPING)}
    if not described or len(named) != len(described) + len(BOOKKEEPING):
        raise InputError(
            "A dataset needs at least one feature, and names that differ from each other and from "
            f"{', '.join(feature.name for feature in BOOKKEEPING)}."
        )
    has_video = any(feature.is_video for feature in described)
    return Info(fps, named, robot_type, video_path=VIDEO_PATH if has_video else None)


def _converted(feature: Feature, value: np.ndarray) -> np.ndarray:
    """The value in the feature's number type: uint8 for RGB, float32 for depth."""
    if feature.shape == (1,) and value.ndim == 1:
        value = value[:, None]
    if value.shape[1:] != feature.shape or value.ndim == 0:
        raise InputError(
            f"'{feature.name}' has shape {value.shape}; (T, {', '.join(map(str, feature.shape))}) is needed."
        )
    wanted = np.dtype("uint8" if feature.is_rgb else "float32" if feature.is_depth else feature.dtype)
    if not np.can_cast(value.dtype, wanted, "same_kind") or (feature.is_rgb and value.dtype != wanted):
        raise InputError(f"'{feature.name}' is {value.dtype}, which does not fit {wanted}; convert it first.")
    with np.errstate(over="ignore"):
        converted = value.astype(wanted, copy=False)
    if feature.is_depth:
        _check_depth(feature, converted)
        return converted
    wrong = ~np.isfinite(converted) if wanted.kind == "f" else converted != value
    if wrong.any():
        raise InputError(
            f"'{feature.name}' in frame {np.argwhere(wrong)[0][0]} is not a number that {wanted} can hold; "
            "leave the episode out or repair it."
        )
    return converted


def _check_depth(feature: Feature, meters: np.ndarray) -> None:
    """Raises InputError for depth of which little or nothing could be stored."""
    measured = meters[np.isfinite(meters) & (meters > 0)]
    if not measured.size:
        return
    middle = float(np.median(measured))
    if middle > LARGEST_DEPTH:
        raise InputError(
            f"'{feature.name}' has a median of {middle:g} meters, and no sensor sees further than "
            f"{LARGEST_DEPTH:g}; give meters, not millimeters."
        )
    if feature.dtype == "depth_video":
        quantization = depth_video.DepthQuantization.from_info(feature.info)
        if not quantization.quantize(measured).any():
            raise InputError(
                f"'{feature.name}' reaches from {measured.min():g} to {measured.max():g} meters, and its video from "
                f"{quantization.depth_min:g} to {quantization.depth_max:g}; choose a range that holds some of it."
            )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn the system's 'no space left' into an InputError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(f"The disk of {folder} is full; free some space, then resume.") from error


def _discard(folder: Path) -> None:
    """Remove a folder; a kill on the way leaves nothing under its old name."""
    doomed = folder.with_name(f"{folder.name}-joined")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)

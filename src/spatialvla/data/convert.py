"""Write any source of episodes as a LeRobot dataset of format v3."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spatialvla.actions.units import ActionUnits
from spatialvla.common.json_files import read_json, write_json
from spatialvla.data.episodes import Episode, EpisodeSource, EpisodeView
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.extrinsics import EXTRINSICS
from spatialvla.data.lerobot.feature_mapping import INTRINSICS, STATE
from spatialvla.data.lerobot.features import depth_feature
from spatialvla.data.lerobot.metadata import is_dataset
from spatialvla.errors import CheckpointError, InputError
from spatialvla.types import ACTION_AXES

IMAGE = "observation.images.main"
DEPTH = "observation.depth.main"
_PROGRESS = ".conversion.json"
_LOOKED_THROUGH = 50
_NOTED_EVERY = 100  # episodes written, of which at most so many are read again where a conversion goes on


@dataclass(frozen=True)
class Converted:
    """episodes: written. skipped: why damaged ones could not be read. empty: without steps, or left out by a spec."""

    episodes: int
    skipped: tuple[str, ...]
    empty: int = 0


def convert(
    source: EpisodeSource,
    out: Path,
    fps: int | None = None,
    instruction: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
    depth_video: DepthQuantization | None = None,
) -> Converted:
    """Write `observation.images.main`, `action` with its units and, where known, the camera's K and place, depth,
    the other cameras alike by their names (`observation.images.wrist`), and the arm's state.

    Damaged episodes are left out. A conversion that was interrupted goes on where it was. What an episode's
    `starts` leave out is written, too: a mapping's `drop_no_ops` finds the steps without motion again. Where
    one of the first 50 episodes has a camera's intrinsics, those without get zeros, which `LeRobotSource` reads as
    unknown; so do those without extrinsics, where an episode up to the first with all intrinsics has some.
    fps: a whole number; the source's own rate unless given. instruction: of the episodes that have none.
    progress: told how many of the source's episodes are done. depth_video: store depth as 12-bit video in
    these steps; as images in whole millimeters unless given.
    Raises InputError where `out` holds something else, an instruction, a camera or a state is missing, or images
    change in size.
    """
    if is_dataset(out):
        raise InputError(f"{out} already holds a dataset; write into a new folder.")
    noted = _Noted.of(out, source)
    skipped, done, empty = noted.skipped, noted.written, noted.empty
    written = _Written.of(source)
    writer: LeRobotWriter | None = None
    for index in range(noted.first, len(source)):
        progress(index, len(source))
        if str(index) in skipped:
            continue
        try:
            episode = source.episode(index)
            if not len(episode.actions):
                empty += 1
                continue
            if writer is not None and done < writer.total_episodes:
                done += 1
                continue
            frames = written.frames(episode)
        except CheckpointError as error:
            skipped[str(index)] = str(error)
            noted.save(out)
            continue
        except InputError as error:
            raise InputError(f"{source.key} episode {index}: {error}") from None
        tasks = [episode.instruction_at(step) or instruction for step in range(len(episode.actions))]
        if not all(tasks):
            raise InputError(f"Episode {index} has no instruction; give one for the episodes that have none.")
        if writer is None:
            writer = LeRobotWriter(
                out,
                _fps(source, fps),
                written.features(frames, depth_video),
                resume=True,
                units=_units(source, fps),
            )
            noted.save(out)
            if writer.total_episodes < done:
                raise InputError(f"{out} has lost episodes that were written; delete the folder.")
            if writer.total_episodes > done:
                done += 1
                continue
        if done % _NOTED_EVERY == 0:
            noted.first, noted.written, noted.empty = index, done, empty
            noted.save(out)
        writer.add_episode(frames, tasks)
        done += 1
    progress(len(source), len(source))
    if writer is None:
        raise InputError(" ".join(("No episode of the dataset can be read.", *list(skipped.values())[:1])))
    writer.finalize()
    (out / _PROGRESS).unlink(missing_ok=True)
    return Converted(writer.total_episodes, tuple(skipped.values()), empty)


@dataclass
class _Noted:
    """How far a conversion has come for certain. skipped: why episodes were left out, by number.

    first: the number of the episode to go on with, which may be written. written, empty: episodes before it.
    """

    source: str
    skipped: dict[str, str]
    first: int = 0
    written: int = 0
    empty: int = 0

    @classmethod
    def of(cls, out: Path, source: EpisodeSource) -> _Noted:
        path = out / _PROGRESS
        if not path.exists():
            return cls(source.contents, {})
        content = read_json(path)
        if content.get("source") != source.contents:
            raise InputError(
                f"{out} was begun from another dataset, or another state of it; delete the folder."
            )
        numbers = {name: int(content.get(name, 0)) for name in ("first", "written", "empty")}
        return cls(source.contents, dict(content.get("skipped", {})), **numbers)

    def save(self, out: Path) -> None:
        write_json(out / _PROGRESS, vars(self), checksum=True)


@dataclass(frozen=True)
class _CameraNames:
    """What the features of one camera are called. view: its name in episodes; None of the first."""

    view: str | None
    image: str
    depth: str
    intrinsics: str
    extrinsics: str

    @classmethod
    def of(cls, view: str | None, taken: Collection[str] = ()) -> _CameraNames:
        if view is None:
            return cls(None, IMAGE, DEPTH, INTRINSICS, EXTRINSICS)
        name = re.sub(r"[^\w-]", "_", view.rsplit(".", 1)[-1])
        while name in taken:
            name += "_2"
        parts = (f"observation.{part}.{name}" for part in ("images", "depth", "intrinsics", "extrinsics"))
        return cls(view, *parts)

    def seen_in(self, episode: Episode) -> EpisodeView:
        if self.view is None:
            return episode
        if self.view not in episode.other_views:
            raise InputError(
                f"not all episodes have the camera '{self.view}', and LeRobot's format asks for all of all; name those "
                "that they all have (--cameras), or say none."
            )
        return episode.other_views[self.view]


@dataclass(frozen=True)
class _Written:
    """What is written of each episode. calibrated, placed: the cameras whose K, and whose places, are known."""

    cameras: tuple[_CameraNames, ...]
    state_names: tuple[str, ...]
    calibrated: frozenset[_CameraNames]
    placed: frozenset[_CameraNames]

    @classmethod
    def of(cls, source: EpisodeSource) -> _Written:
        """By the first episodes, up to the one after which intrinsics are known of all cameras of the first."""
        cameras: list[_CameraNames] = []
        calibrated, placed = set(), set()
        for index in range(min(len(source), _LOOKED_THROUGH)):
            try:
                episode = source.episode(index)
            except CheckpointError:
                continue
            if not cameras:
                for name in (None, *episode.other_views):
                    taken = [camera.image.rsplit(".", 1)[-1] for camera in cameras]
                    cameras.append(_CameraNames.of(name, taken))
            for camera in cameras:
                if camera.view is None or camera.view in episode.other_views:
                    view = camera.seen_in(episode)
                    calibrated |= {camera} if view.camera is not None else set()
                    placed |= {camera} if view.extrinsics is not None else set()
            if len(calibrated) == len(cameras):
                break
        return cls(tuple(cameras), tuple(source.state_names), frozenset(calibrated), frozenset(placed))

    def frames(self, episode: Episode) -> dict[str, np.ndarray]:
        """(T, …) of each feature. Raises InputError where the episode lacks what others have."""
        steps = range(len(episode.actions))
        frames = {"action": episode.actions.astype(np.float32)}
        for camera in self.cameras:
            frames |= self._view(camera, camera.seen_in(episode), steps)
        if self.state_names:
            if episode.state is None:
                raise InputError("not all episodes have the arm's state; leave it out (--no-state).")
            frames[STATE] = episode.state.astype(np.float32)
        return frames

    def _view(self, camera: _CameraNames, view: EpisodeView, steps: range) -> dict[str, np.ndarray]:
        frames = {camera.image: view.images(steps)}
        depth = view.depth(steps)
        if depth is not None:
            frames[camera.depth] = depth
        if camera in self.calibrated:
            known, size = view.camera, frames[camera.image].shape[1:3]
            intrinsics = np.zeros((3, 3)) if known is None else known.scaled_to(*size)
            frames[camera.intrinsics] = np.tile(intrinsics.astype(np.float32), (len(steps), 1, 1))
        if camera in self.placed:
            extrinsics = np.zeros((len(steps), 4, 4)) if view.extrinsics is None else view.extrinsics
            frames[camera.extrinsics] = extrinsics.astype(np.float32)
        return frames

    def features(
        self, frames: Mapping[str, np.ndarray], depth_video: DepthQuantization | None
    ) -> list[Feature]:
        """Of all episodes, by the first one's frames."""
        features = []
        for camera in self.cameras:
            height, width = frames[camera.image].shape[1:3]
            kind = "image" if height % 2 or width % 2 else "video"
            features.append(Feature(camera.image, kind, (height, width, 3)))
            if camera.depth in frames:
                features.append(depth_feature(camera.depth, frames[camera.depth].shape[1:], depth_video))
            if camera in self.calibrated:
                features.append(Feature(camera.intrinsics, "float32", (3, 3)))
            if camera in self.placed:
                features.append(Feature(camera.extrinsics, "float32", (4, 4)))
        if self.state_names:
            features.append(Feature(STATE, "float32", (len(self.state_names),), self.state_names))
        return [*features, Feature("action", "float32", (7,), ACTION_AXES)]


def _units(source: EpisodeSource, fps: int | None) -> ActionUnits:
    return replace(source.units, control_hz=float(_fps(source, fps)))


def _fps(source: EpisodeSource, fps: int | None) -> int:
    if fps is None and source.control_hz != round(source.control_hz):
        raise InputError(
            f"{source.key} has {source.control_hz:g} steps a second; give a whole number as fps."
        )
    return round(source.control_hz) if fps is None else fps

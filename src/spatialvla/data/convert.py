"""Write any source of episodes as a LeRobot dataset of format v3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spatialvla.actions.units import ActionUnits
from spatialvla.common.json_files import read_json, write_json
from spatialvla.data.episodes import Episode, EpisodeSource
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.extrinsics import EXTRINSICS
from spatialvla.data.lerobot.feature_mapping import INTRINSICS
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
    """Write `observation.images.main`, `action` with its units and, where known, the camera and depth.

    Damaged episodes are left out. A conversion that was interrupted goes on where it was. What an episode's
    `starts` leave out is written, too: a mapping's `drop_no_ops` finds the steps without motion again. Where
    one of the first 50 episodes has intrinsics, those without get zeros, which `LeRobotSource` reads as
    unknown; so do those without extrinsics, where an episode up to the first with intrinsics has some.
    fps: a whole number; the source's own rate unless given. instruction: of the episodes that have none.
    progress: told how many of the source's episodes are done. depth_video: store depth as 12-bit video in
    these steps; as images in whole millimeters unless given.
    Raises InputError where `out` holds something else, an instruction is missing, or images change in size.
    """
    if is_dataset(out):
        raise InputError(f"{out} already holds a dataset; write into a new folder.")
    noted = _Noted.of(out, source)
    skipped, done, empty = noted.skipped, noted.written, noted.empty
    calibrated, placed = _known_of_camera(source)
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
            frames = _frames(episode, calibrated, placed)
        except CheckpointError as error:
            skipped[str(index)] = str(error)
            noted.save(out)
            continue
        tasks = [episode.instruction_at(step) or instruction for step in range(len(episode.actions))]
        if not all(tasks):
            raise InputError(f"Episode {index} has no instruction; give one for the episodes that have none.")
        if writer is None:
            writer = LeRobotWriter(
                out,
                _fps(source, fps),
                _features(frames, depth_video),
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


def _known_of_camera(source: EpisodeSource) -> tuple[bool, bool]:
    """Whether intrinsics are known of one of the first episodes, and extrinsics of one up to it."""
    placed = False
    for index in range(min(len(source), _LOOKED_THROUGH)):
        try:
            episode = source.episode(index)
        except CheckpointError:
            continue
        placed = placed or episode.extrinsics is not None
        if episode.camera is not None:
            return True, placed
    return False, placed


def _frames(episode: Episode, calibrated: bool, placed: bool) -> dict[str, np.ndarray]:
    steps = range(len(episode.actions))
    images = episode.images(steps)
    frames = {IMAGE: images, "action": episode.actions.astype(np.float32)}
    depth = episode.depth(steps)
    if depth is not None:
        frames[DEPTH] = depth
    if calibrated:
        camera = episode.camera
        intrinsics = np.zeros((3, 3)) if camera is None else camera.scaled_to(*images.shape[1:3])
        frames[INTRINSICS] = np.tile(intrinsics.astype(np.float32), (len(steps), 1, 1))
    if placed:
        extrinsics = np.zeros((len(steps), 4, 4)) if episode.extrinsics is None else episode.extrinsics
        frames[EXTRINSICS] = extrinsics.astype(np.float32)
    return frames


def _features(frames: dict[str, np.ndarray], depth_video: DepthQuantization | None) -> list[Feature]:
    height, width = frames[IMAGE].shape[1:3]
    kind = "image" if height % 2 or width % 2 else "video"
    features = [Feature(IMAGE, kind, (height, width, 3)), Feature("action", "float32", (7,), ACTION_AXES)]
    if DEPTH in frames:
        features.append(depth_feature(DEPTH, frames[DEPTH].shape[1:], depth_video))
    if INTRINSICS in frames:
        features.append(Feature(INTRINSICS, "float32", (3, 3)))
    if EXTRINSICS in frames:
        features.append(Feature(EXTRINSICS, "float32", (4, 4)))
    return features


def _units(source: EpisodeSource, fps: int | None) -> ActionUnits:
    return replace(source.units, control_hz=float(_fps(source, fps)))


def _fps(source: EpisodeSource, fps: int | None) -> int:
    if fps is None and source.control_hz != round(source.control_hz):
        raise InputError(
            f"{source.key} has {source.control_hz:g} steps a second; give a whole number as fps."
        )
    return round(source.control_hz) if fps is None else fps

"""Write any source of episodes as a LeRobot dataset of format v3."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spatialvla.actions.units import ActionUnits
from spatialvla.common.json_files import read_json, write_json
from spatialvla.data.episodes import EpisodeSource
from spatialvla.data.lerobot import LeRobotWriter
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.metadata import is_dataset
from spatialvla.data.lerobot.writer import forget_empty
from spatialvla.data.written_features import WrittenFeatures
from spatialvla.errors import CheckpointError, InputError

_PROGRESS = ".conversion.json"
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

    Damaged episodes are left out. A conversion that was interrupted goes on where it was; one that fails before its
    first episode is written leaves nothing. What an episode's `starts` leave out is written, too, and
    `observation.present.main` says that no sample starts there. Where some episode has a camera's intrinsics, its
    place or its depth, those without get zeros, which `LeRobotSource` reads as unknown. Where a camera beside the first
    is missing, its pictures are black and `observation.present.wrist` says so. For all this the numbers of every
    episode are read once before the first is written.
    fps: a whole number; the source's own rate unless given. instruction: of the episodes that have none.
    progress: told how many of the source's episodes are done. depth_video: store depth as 12-bit video in
    these steps; as images in whole millimeters unless given.
    Raises InputError where `out` holds something else, an instruction or a state is missing, or images change in
    size.
    """
    if is_dataset(out):
        raise InputError(f"{out} already holds a dataset; write into a new folder.")
    noted = _Noted.of(out, source)
    try:
        return _converted(source, out, noted, fps, instruction, progress, depth_video)
    except InputError:
        if forget_empty(out):
            (out / _PROGRESS).unlink(missing_ok=True)
            with suppress(OSError):
                out.rmdir()
        raise


def _converted(
    source: EpisodeSource,
    out: Path,
    noted: _Noted,
    fps: int | None,
    instruction: str,
    progress: Callable[[int, int], None],
    depth_video: DepthQuantization | None,
) -> Converted:
    """Goes on where it is noted to be. The arguments are those of `convert`."""
    skipped, done, empty = noted.skipped, noted.written, noted.empty
    if noted.cameras is None:
        written = WrittenFeatures.of(source)
        noted.cameras = written.to_json()
        noted.save(out)
    else:
        written = WrittenFeatures.from_json(noted.cameras, source.state_names)
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
            raise InputError(
                f"Episode {index} has no instruction; --instruction says one for the episodes that have none."
            )
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
    cameras: as of `WrittenFeatures.to_json`; None before they are looked for.
    """

    source: str
    skipped: dict[str, str]
    first: int = 0
    written: int = 0
    empty: int = 0
    cameras: list[dict[str, Any]] | None = None

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
        skipped = dict(content.get("skipped", {}))
        return cls(source.contents, skipped, **numbers, cameras=content.get("cameras"))

    def save(self, out: Path) -> None:
        write_json(out / _PROGRESS, vars(self), checksum=True)


def _units(source: EpisodeSource, fps: int | None) -> ActionUnits:
    return replace(source.units, control_hz=float(_fps(source, fps)))


def _fps(source: EpisodeSource, fps: int | None) -> int:
    if fps is None and source.control_hz != round(source.control_hz):
        raise InputError(
            f"{source.key} has {source.control_hz:g} steps a second; give a whole number as fps."
        )
    return round(source.control_hz) if fps is None else fps

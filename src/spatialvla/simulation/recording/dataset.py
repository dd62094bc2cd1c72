"""Recorded episodes as a LeRobot dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialvla.actions.units import ActionUnits
from spatialvla.common.json_files import read_json, write_json
from spatialvla.data.episodes import TAKEOVER
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.extrinsics import EXTRINSICS
from spatialvla.data.lerobot.feature_mapping import INTRINSICS, PRESENT
from spatialvla.data.lerobot.features import depth_feature
from spatialvla.errors import InputError
from spatialvla.simulation.recording.demonstration import STATE_NAMES, Demonstration
from spatialvla.types import ACTION_AXES

_ORDER = ".recording.json"
"""Beside an unfinished dataset: the episodes' files in the order they are written."""


@dataclass(frozen=True)
class Embodiment:
    """Whose demonstrations a dataset holds.

    robot: its name. camera: the first one's, as features are called after it. fps: control steps a second.
    units: of the actions.
    """

    robot: str
    camera: str
    fps: int
    units: ActionUnits


def store(
    files: Sequence[Path],
    out: Path,
    embodiment: Embodiment,
    depth: bool = True,
    depth_video: DepthQuantization | None = None,
) -> None:
    """Writes recorded episodes into a LeRobot v3 dataset, in the order given; a killed run goes on.

    One that goes on with more files writes those that are there first, whatever their order now is.

    A step that was not drawn has the picture before it, and `observation.present.<camera>` says that it is not its
    own; where each step of the first episode was drawn, there is no such feature.
    depth_video: store the depth as 12-bit video in these steps; as images in whole millimeters unless given.
    Raises InputError where not all were seen by the same cameras, or drawn at each step, and where an episode that
    was written is none of the files.
    """
    first, camera = Demonstration.load(files[0]), embodiment.camera
    sparse = first.is_sparse
    size = first.images.shape[1:]
    features = [
        Feature(f"observation.images.{camera}", "video", size),
        Feature("observation.state", "float32", (8,), STATE_NAMES),
        Feature(INTRINSICS, "float32", (3, 3)),
        Feature("observation.camera_pose", "float32", (4, 4)),
        Feature(EXTRINSICS, "float32", (4, 4)),
        Feature("action", "float32", (7,), ACTION_AXES),
        Feature(TAKEOVER, "float32", (1,)),
    ]
    for other in first.others:
        features += [
            Feature(f"observation.images.{other}", "video", size),
            Feature(f"{INTRINSICS}.{other}", "float32", (3, 3)),
            Feature(f"{EXTRINSICS}.{other}", "float32", (4, 4)),
        ]
    for name in (camera, *first.others):
        if depth:
            features.append(depth_feature(f"observation.depth.{name}", size[:2], depth_video))
        if sparse:
            features.append(Feature(f"{PRESENT}.{name}", "bool", (1,)))
    writer = LeRobotWriter(
        out, embodiment.fps, features, robot_type=embodiment.robot, resume=True, units=embodiment.units
    )
    for file in _in_order(files, out / _ORDER, writer.total_episodes):
        episode = Demonstration.load(file)
        if set(episode.others) != set(first.others):
            raise InputError(
                f"{file} was seen by {_listed(camera, episode)} and {files[0]} by {_listed(camera, first)}; record "
                "into another folder of episodes."
            )
        if episode.is_sparse and not sparse:
            raise InputError(
                f"{file} was not drawn at each step, and {files[0]} was; record into another folder of episodes."
            )
        writer.add_episode(_frames(episode, camera, depth, sparse), episode.instruction)
    writer.finalize()
    (out / _ORDER).unlink(missing_ok=True)


def _in_order(files: Sequence[Path], note: Path, written: int) -> list[Path]:
    """The files that are not written yet, after noting the order of all. Raises InputError as `store`."""
    named = {file.name: file for file in files}
    before = list(named)
    if note.exists():
        before = read_json(note, f"delete {note.parent}", InputError)["files"]
    done = before[:written]
    if gone := [name for name in done if name not in named]:
        raise InputError(
            f"{note.parent} was begun with the episode {gone[0]}, which this recording leaves out; delete the folder, "
            "or record as before."
        )
    order = [*done, *(name for name in named if name not in done)]
    write_json(note, {"files": order}, checksum=True)
    return [named[name] for name in order[written:]]


def _frames(episode: Demonstration, camera: str, depth: bool, sparse: bool) -> dict[str, np.ndarray]:
    """(T, …) each feature's values."""
    steps, drawn = (len(episode), 1, 1), episode.drawn
    latest = np.searchsorted(drawn, np.arange(len(episode)), side="right") - 1
    frames = {
        f"observation.images.{camera}": episode.images[latest],
        "observation.state": episode.proprioception,
        INTRINSICS: np.tile(episode.intrinsics, steps),
        "observation.camera_pose": np.tile(episode.camera_pose, steps),
        EXTRINSICS: np.tile(episode.extrinsics, steps),
        "action": episode.actions,
        TAKEOVER: episode.takeover,
    }
    for other, view in episode.others.items():
        frames[f"observation.images.{other}"] = view.images[latest]
        frames[f"{INTRINSICS}.{other}"] = np.tile(view.intrinsics, steps)
        frames[f"{EXTRINSICS}.{other}"] = view.extrinsics[latest]
    if depth:
        frames[f"observation.depth.{camera}"] = episode.depth[latest].astype(np.float32)
        for other, view in episode.others.items():
            frames[f"observation.depth.{other}"] = view.depth[latest].astype(np.float32)
    if sparse:
        own = np.isin(np.arange(len(episode)), drawn)[:, None]
        frames |= {f"{PRESENT}.{name}": own for name in (camera, *episode.others)}
    return frames


def _listed(camera: str, episode: Demonstration) -> str:
    return ", ".join((camera, *episode.others))

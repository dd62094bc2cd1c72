"""Episodes of a dataset as Rerun recordings: what its cameras saw, how its gripper moved, what its actions say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from spatialvla.data.camera_strips import cameras_of, own_pictures
from spatialvla.data.episodes import Episode, EpisodeSource, EpisodeView, action_chunks
from spatialvla.data.gripper_track import gripper_positions
from spatialvla.geometry.extrinsics import mirror_extrinsics
from spatialvla.types import CameraImage
from spatialvla.viz.rerun.destination import Destination
from spatialvla.viz.rerun.recordings import Recordings
from spatialvla.viz.rerun.rig import Rig

_MOST_PICTURES = 100
"""Of each camera in one episode; in longer ones they are evenly spread."""

_DECODED = 16
"""Pictures in memory at a time."""

_AHEAD = 8
"""Actions that are drawn from each picture on."""


def record_episode(source: EpisodeSource, index: int, destination: Destination) -> None:
    """Records one episode, with all its actions. Raises CheckpointError for broken pictures."""
    episode = source.episode(index)
    steps = len(episode.actions)
    units = replace(source.units, control_hz=source.control_hz)
    recording = Recordings(destination, Rig(units=units), source.key).open(
        f"episode{index:06d}", decides=False
    )
    try:
        positions = gripper_positions(source, episode)
        if positions is not None:
            recording.show_whole_path(positions)
        seen = own_pictures(episode)
        spread = np.linspace(0, len(seen) - 1, min(len(seen), _MOST_PICTURES))
        chosen = seen[spread.round().astype(int)].tolist()
        pictures = _pictures(episode, chosen)
        for step, action in enumerate(episode.actions):
            recording.show_gripper(step, None if positions is None else positions[step])
            if step in chosen:
                recording.show_cameras(step, next(pictures), episode.instruction_at(step))
                recording.show_next_actions(step, action_chunks(episode.actions, np.array([step]), _AHEAD)[0])
            recording.move(step, action)
        recording.end(steps)
    finally:
        recording.close()


def _pictures(episode: Episode, steps: list[int]) -> Iterator[Mapping[str, CameraImage]]:
    """What all cameras saw at each of some steps."""
    for first in range(0, len(steps), _DECODED):
        some = steps[first : first + _DECODED]
        seen = {name: _images(view, some) for name, view in cameras_of(episode).items()}
        for number in range(len(some)):
            yield {name: images[number] for name, images in seen.items()}


def _images(view: EpisodeView, steps: list[int]) -> list[CameraImage]:
    """What one camera saw at some steps."""
    images, depths, poses = view.images(steps), view.depth(steps), view.extrinsics
    K = None if view.camera is None else view.camera.scaled_to(*images.shape[1:3])
    found = []
    for number, step in enumerate(steps):
        pose = None if poses is None else poses[step]
        mirrored = pose is not None and bool(np.linalg.det(pose[:3, :3]) < 0)
        if pose is not None and mirrored:
            pose = mirror_extrinsics(pose)
        found.append(
            CameraImage(images[number], K, None if depths is None else depths[number], pose, mirrored)
        )
    return found

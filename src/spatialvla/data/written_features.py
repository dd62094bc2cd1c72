"""What a converted dataset holds of each episode: pictures and depth of all cameras, their places, state, actions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from spatialvla.data.episodes import STILL, TAKEOVER, Episode, EpisodeSource, EpisodeView
from spatialvla.data.lerobot import Feature
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.extrinsics import EXTRINSICS
from spatialvla.data.lerobot.feature_mapping import INTRINSICS, MAIN_IMAGE, PRESENT, STATE
from spatialvla.data.lerobot.features import depth_feature
from spatialvla.errors import CheckpointError, InputError
from spatialvla.types import ACTION_AXES

_IMAGES, _FIRST = MAIN_IMAGE.rsplit(".", 1)
_DEPTHS = "observation.depth"
DEPTH = f"{_DEPTHS}.{_FIRST}"
_PRESENT = f"{PRESENT}.{_FIRST}"
_LOOKED_THROUGH = 50
_MARKS = (TAKEOVER, STILL)
"""Columns that say what a sample is."""


@dataclass(frozen=True)
class _Camera:
    """A camera beside the first, and what is written of it.

    view, name: in episodes, and in features. size: (height, width). depth_size: the same of its depth; None without.
    """

    view: str
    name: str
    size: tuple[int, ...]
    depth_size: tuple[int, ...] | None

    @classmethod
    def of(cls, view: str, seen: EpisodeView, taken: Collection[str]) -> _Camera:
        """By what it saw first. taken: names of features that it cannot have."""
        name = re.sub(r"[^\w-]", "_", view.rsplit(".", 1)[-1])
        while name in taken:
            name += "_2"
        depth = seen.depth([0])
        return cls(view, name, seen.images([0]).shape[1:3], None if depth is None else depth.shape[1:])

    def frames(self, seen: EpisodeView | None, own: np.ndarray) -> dict[str, np.ndarray]:
        """Pictures and depth; black, and not measured, where the camera was not there. own: as of `_own`."""
        count, steps = len(own), range(len(own))
        frames: dict[str, np.ndarray] = {f"{PRESENT}.{self.name}": own & (seen is not None)}
        images = np.zeros((count, *self.size, 3), np.uint8) if seen is None else seen.images(steps)
        frames[f"{_IMAGES}.{self.name}"] = images
        if self.depth_size is not None:
            depth = None if seen is None else seen.depth(steps)
            nothing = np.zeros((count, *self.depth_size), np.float32)
            frames[f"{_DEPTHS}.{self.name}"] = nothing if depth is None else depth
        return frames

    def features(self, depth_video: DepthQuantization | None) -> list[Feature]:
        """Of `frames`."""
        features = [
            _picture(f"{_IMAGES}.{self.name}", self.size),
            Feature(f"{PRESENT}.{self.name}", "bool", (1,)),
        ]
        if self.depth_size is not None:
            features.append(depth_feature(f"{_DEPTHS}.{self.name}", self.depth_size, depth_video))
        return features


@dataclass(frozen=True)
class WrittenFeatures:
    """What is written of each episode, and how it is called.

    cameras: those beside the first. calibrated, placed: the cameras whose K, and whose places, are known; the first
    one's name is "".
    """

    cameras: tuple[_Camera, ...]
    state_names: tuple[str, ...]
    calibrated: frozenset[str]
    placed: frozenset[str]

    @classmethod
    def of(cls, source: EpisodeSource) -> WrittenFeatures:
        """By the first 50 episodes, up to the one by which intrinsics and places are known of all cameras so far."""
        cameras: dict[str, _Camera] = {}
        calibrated, placed = set(), set()
        for index in range(min(len(source), _LOOKED_THROUGH)):
            try:
                episode = source.episode(index)
                for view, seen in episode.other_views.items():
                    if view not in cameras and len(episode.actions):
                        taken = [_FIRST, *(camera.name for camera in cameras.values())]
                        cameras[view] = _Camera.of(view, seen, taken)
            except CheckpointError:
                continue
            for name, seen in [
                ("", episode),
                *((cameras[v].name, s) for v, s in episode.other_views.items()),
            ]:
                calibrated |= {name} if seen.camera is not None else set()
                placed |= {name} if seen.extrinsics is not None else set()
            if min(len(calibrated), len(placed)) > len(cameras):
                break
        return cls(
            tuple(cameras.values()), tuple(source.state_names), frozenset(calibrated), frozenset(placed)
        )

    def frames(self, episode: Episode) -> dict[str, np.ndarray]:
        """(T, …) of each feature. Raises InputError where the episode has no state and others have."""
        steps, own = range(len(episode.actions)), _own(episode)
        frames = {
            MAIN_IMAGE: episode.images(steps),
            _PRESENT: own,
            "action": episode.actions.astype(np.float32),
        }
        depth = episode.depth(steps)
        if depth is not None:
            frames[DEPTH] = depth
        frames |= self._place("", episode, frames[MAIN_IMAGE].shape)
        for camera in self.cameras:
            seen = episode.other_views.get(camera.view)
            frames |= camera.frames(seen, own)
            frames |= self._place(camera.name, seen, frames[f"{_IMAGES}.{camera.name}"].shape)
        if self.state_names:
            if episode.state is None:
                raise InputError("not all episodes have the arm's state; leave it out (--no-state).")
            frames[STATE] = episode.state.astype(np.float32)
        marks = {name: episode.columns[name] for name in _MARKS if name in episode.columns}
        return frames | {name: values.reshape(-1, 1).astype(np.float32) for name, values in marks.items()}

    def _place(self, name: str, seen: EpisodeView | None, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Intrinsics and extrinsics as far as they are known of a camera; zeros where they are not in this episode."""
        frames: dict[str, np.ndarray] = {}
        if name in self.calibrated:
            camera = None if seen is None else seen.camera
            intrinsics = np.zeros((3, 3)) if camera is None else camera.scaled_to(*shape[1:3])
            frames[_named(INTRINSICS, name)] = np.tile(intrinsics.astype(np.float32), (shape[0], 1, 1))
        if name in self.placed:
            extrinsics = None if seen is None else seen.extrinsics
            frames[_named(EXTRINSICS, name)] = (
                np.zeros((shape[0], 4, 4), np.float32)
                if extrinsics is None
                else extrinsics.astype(np.float32)
            )
        return frames

    def features(
        self, frames: Mapping[str, np.ndarray], depth_video: DepthQuantization | None
    ) -> list[Feature]:
        """Of all episodes, by the first one's frames."""
        features = [_picture(MAIN_IMAGE, frames[MAIN_IMAGE].shape[1:3]), Feature(_PRESENT, "bool", (1,))]
        if DEPTH in frames:
            features.append(depth_feature(DEPTH, frames[DEPTH].shape[1:], depth_video))
        for camera in self.cameras:
            features += camera.features(depth_video)
        for base, size, names in ((INTRINSICS, 3, self.calibrated), (EXTRINSICS, 4, self.placed)):
            features += [Feature(_named(base, name), "float32", (size, size)) for name in sorted(names)]
        if self.state_names:
            features.append(Feature(STATE, "float32", (len(self.state_names),), self.state_names))
        features += [Feature(name, "float32", (1,)) for name in _MARKS if name in frames]
        return [*features, Feature("action", "float32", (7,), ACTION_AXES)]


def _own(episode: Episode) -> np.ndarray:
    """(T, 1) whether a sample may start at a step: the pictures of others may be of another step."""
    return np.isin(np.arange(len(episode.actions)), episode.starts)[:, None]


def _picture(name: str, size: tuple[int, ...]) -> Feature:
    kind = "image" if size[0] % 2 or size[1] % 2 else "video"
    return Feature(name, kind, (*size, 3))


def _named(base: str, camera: str) -> str:
    """The feature of a camera; that of the first has no name."""
    return f"{base}.{camera}" if camera else base

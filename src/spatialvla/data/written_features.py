"""What a converted dataset holds of each episode: pictures and depth of all cameras, their places, state, actions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

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
_MARKS = (TAKEOVER, STILL)
"""Columns that say what a sample is."""


@dataclass(frozen=True)
class _Camera:
    """A camera, and what is written of it.

    view, name: in episodes, where the first one's is "", and in features. size: (height, width). depth_size: the same
    of its depth; None without. calibrated, placed: whether its K, and its place, are known in some episode.
    """

    view: str
    name: str
    size: tuple[int, ...]
    depth_size: tuple[int, ...] | None = None
    calibrated: bool = False
    placed: bool = False

    @classmethod
    def of(cls, view: str, seen: EpisodeView, taken: Collection[str]) -> _Camera:
        """By what it saw first. taken: names of features that it cannot have."""
        name = re.sub(r"[^\w-]", "_", view.rsplit(".", 1)[-1]) or _FIRST
        while name in taken:
            name += "_2"
        return cls(view, name, seen.images([0]).shape[1:3])

    def known_from(self, seen: EpisodeView) -> _Camera:
        """With what an episode adds."""
        depth = seen.depth([0]) if self.depth_size is None else None
        return replace(
            self,
            depth_size=self.depth_size if depth is None else depth.shape[1:],
            calibrated=self.calibrated or seen.camera is not None,
            placed=self.placed or seen.extrinsics is not None,
        )

    def frames(self, seen: EpisodeView | None, own: np.ndarray) -> dict[str, np.ndarray]:
        """Pictures, depth, K and place; black, not measured, and zeros where they are not known. own: as of `_own`."""
        count, steps = len(own), range(len(own))
        images = np.zeros((count, *self.size, 3), np.uint8) if seen is None else seen.images(steps)
        frames: dict[str, np.ndarray] = {
            f"{_IMAGES}.{self.name}": images,
            f"{PRESENT}.{self.name}": own & (seen is not None),
        }
        if self.depth_size is not None:
            depth = None if seen is None else seen.depth(steps)
            nothing = np.zeros((count, *self.depth_size), np.float32)
            frames[f"{_DEPTHS}.{self.name}"] = nothing if depth is None else depth
        if self.calibrated:
            camera = None if seen is None else seen.camera
            intrinsics = np.zeros((3, 3)) if camera is None else camera.scaled_to(*images.shape[1:3])
            frames[self._named(INTRINSICS)] = np.tile(intrinsics.astype(np.float32), (count, 1, 1))
        if self.placed:
            place = None if seen is None else seen.extrinsics
            nowhere = np.zeros((count, 4, 4), np.float32)
            frames[self._named(EXTRINSICS)] = nowhere if place is None else place.astype(np.float32)
        return frames

    def features(self, depth_video: DepthQuantization | None) -> list[Feature]:
        """Of `frames`."""
        kind = "image" if self.size[0] % 2 or self.size[1] % 2 else "video"
        features = [
            Feature(f"{_IMAGES}.{self.name}", kind, (*self.size, 3)),
            Feature(f"{PRESENT}.{self.name}", "bool", (1,)),
        ]
        if self.depth_size is not None:
            features.append(depth_feature(f"{_DEPTHS}.{self.name}", self.depth_size, depth_video))
        if self.calibrated:
            features.append(Feature(self._named(INTRINSICS), "float32", (3, 3)))
        if self.placed:
            features.append(Feature(self._named(EXTRINSICS), "float32", (4, 4)))
        return features

    def _named(self, base: str) -> str:
        """The feature of this camera; that of the first has no name."""
        return f"{base}.{self.name}" if self.view else base


@dataclass(frozen=True)
class WrittenFeatures:
    """What is written of each episode, and how it is called. cameras: the first one first."""

    cameras: tuple[_Camera, ...]
    state_names: tuple[str, ...]

    @classmethod
    def of(cls, source: EpisodeSource) -> WrittenFeatures:
        """By all episodes' numbers, and one picture of each camera, so that what comes late comes along."""
        cameras: dict[str, _Camera] = {}
        for index in range(len(source)):
            with suppress(CheckpointError):  # which the conversion meets again, and tells
                episode = source.episode(index)
                if not len(episode.actions):
                    continue
                for view, seen in _views(episode).items():
                    if view not in cameras:
                        taken = [_FIRST] * bool(view) + [camera.name for camera in cameras.values()]
                        cameras[view] = _Camera.of(view, seen, taken)
                    cameras[view] = cameras[view].known_from(seen)
        first = [cameras.pop("")] if "" in cameras else []
        return cls((*first, *cameras.values()), tuple(source.state_names))

    @classmethod
    def from_json(cls, cameras: Sequence[Mapping[str, Any]], state_names: Sequence[str]) -> WrittenFeatures:
        """What `to_json` gave."""
        sizes = ("size", "depth_size")
        told = (
            {**camera, **{name: camera[name] and tuple(camera[name]) for name in sizes}} for camera in cameras
        )
        return cls(tuple(_Camera(**camera) for camera in told), tuple(state_names))

    def to_json(self) -> list[dict[str, Any]]:
        """The cameras, so that they need not be looked for again."""
        return [asdict(camera) for camera in self.cameras]

    def frames(self, episode: Episode) -> dict[str, np.ndarray]:
        """(T, …) of each feature. Raises InputError where the episode has no state and others have."""
        own, views = _own(episode), _views(episode)
        frames = {"action": episode.actions.astype(np.float32)}
        for camera in self.cameras:
            frames |= camera.frames(views.get(camera.view), own)
        if self.state_names:
            if episode.state is None:
                raise InputError("not all episodes have the arm's state; leave it out (--no-state).")
            frames[STATE] = episode.state.astype(np.float32)
        marks = {name: episode.columns[name] for name in _MARKS if name in episode.columns}
        return frames | {name: values.reshape(-1, 1).astype(np.float32) for name, values in marks.items()}

    def features(
        self, frames: Mapping[str, np.ndarray], depth_video: DepthQuantization | None
    ) -> list[Feature]:
        """Of all episodes, by the first one's frames."""
        features = [feature for camera in self.cameras for feature in camera.features(depth_video)]
        if self.state_names:
            features.append(Feature(STATE, "float32", (len(self.state_names),), self.state_names))
        features += [Feature(name, "float32", (1,)) for name in _MARKS if name in frames]
        return [*features, Feature("action", "float32", (7,), ACTION_AXES)]


def _views(episode: Episode) -> dict[str, EpisodeView]:
    """All cameras of an episode, the first one under ""."""
    return {"": episode, **episode.other_views}


def _own(episode: Episode) -> np.ndarray:
    """(T, 1) whether a sample may start at a step: the pictures of others may be of another step."""
    return np.isin(np.arange(len(episode.actions)), episode.starts)[:, None]

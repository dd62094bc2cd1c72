"""Which of a dataset's cameras, and whether its state, a run reads; and whether its datasets have what it needs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from spatialvla.data.episodes import (
    Episode,
    EpisodeSource,
    EpisodeView,
    EpisodeWrapper,
    SourceWrapper,
    has_sensor,
)
from spatialvla.errors import CheckpointError, InputError

_LOOKED_THROUGH = 50  # episodes


@dataclass(frozen=True)
class NeededParts(SourceWrapper):
    """A dataset as if it had no other parts than a run reads.

    cameras: names of those beside the first; None keeps all. state: whether the arm's state is read.
    """

    cameras: Collection[str] | None = None
    state: bool = True

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the numbers of the states are; empty where they are not read."""
        return self.source.state_names if self.state else ()

    @property
    def fingerprint(self) -> str:
        """Of the dataset and the cameras, whose damage is its episode's."""
        cameras = "" if self.cameras is None else f" with {sorted(self.cameras)}"
        return f"{self.source.fingerprint}{cameras}"

    def episode(self, index: int) -> Episode:
        """Any episode. Raises CheckpointError, naming the file, for damaged data."""
        return _Part(self.source.episode(index), self.cameras, self.state)


@dataclass(frozen=True)
class _Part(EpisodeWrapper):
    cameras: Collection[str] | None
    has_state: bool

    @property
    def other_views(self) -> Mapping[str, EpisodeView]:
        """Of the cameras that are read."""
        views = self.episode.other_views
        return (
            views if self.cameras is None else {name: views[name] for name in views if name in self.cameras}
        )

    @property
    def state(self) -> np.ndarray | None:
        """(T, S) how the arm stands, where that is read."""
        return self.episode.state if self.has_state else None


def check_parts(
    sources: Sequence[EpisodeSource],
    cameras: Sequence[str],
    state_size: int = 0,
    extrinsics: bool = False,
    depth: bool = False,
    needed: Collection[str] | None = None,
    state_needed: bool = True,
) -> None:
    """Raises InputError, naming dataset and line, where datasets lack what a run needs of them.

    By each dataset's first episode with samples, and for cameras that none of these has by 50. cameras: names of the
    model's, the first one's first. state_size: the model's numbers; those of each dataset that has a state have to be
    as many; 0 asks for none. extrinsics: whether each camera's place has to be known, and with it the intrinsics of
    those beside the first. depth: whether the first has to have a sensor. needed, state_needed: the cameras that some
    dataset has to have, all of the others unless given, and whether some has to have a state.
    """
    first, *others = cameras
    found: set[str] = set()
    for source in sources:
        views = next(_seen(source, first, others), {})
        found |= views.keys()
        if depth and first in views and not has_sensor(views[first]):
            raise InputError(without_sensor(source.key))
        for name, view in views.items():
            if extrinsics and name != first and view.camera is None:
                raise InputError(
                    f"{source.key} does not tell the intrinsics of its camera '{name}'; give a mapping with the line "
                    f"'cameras: {{{name}: {{intrinsics: …}}}}' or 'calibration: …', or train without it."
                )
            if extrinsics and view.extrinsics is None:
                raise InputError(unplaced(source.key, name, name == first))
        if state_size and source.state_names and len(source.state_names) != state_size:
            raise InputError(
                f"The state of {source.key} has {len(source.state_names)} numbers ({', '.join(source.state_names)}), "
                f"and the policy takes {state_size}; choose them with a mapping's line 'state: {{feature: …, "
                "indices: [...]}'."
            )
    keys = ", ".join(source.key for source in sources)
    for name in others if needed is None else needed:
        looks = (islice(_seen(source, first, others), _LOOKED_THROUGH) for source in sources)
        if name not in found and not any(name in views for look in looks for views in look):
            raise InputError(
                f"None of the datasets has the camera '{name}' ({keys}); name its feature with a mapping's line "
                f"'cameras: {{{name}: …}}', or leave it out."
            )
    if state_size and state_needed and not any(source.state_names for source in sources):
        raise InputError(
            f"None of the datasets has the arm's state ({keys}); name its features with a mapping's line "
            "'state: {feature: …}', or train without it."
        )


def untold_cameras(sources: Sequence[EpisodeSource], cameras: Collection[str]) -> set[str]:
    """Those of the cameras beside the first that some dataset has without telling the intrinsics; by 50 episodes."""
    if not cameras:  # a run of one camera reads nothing for it
        return set()
    return {
        name
        for source in sources
        for views in islice(_seen(source, "", cameras), _LOOKED_THROUGH)
        for name in cameras
        if name in views and views[name].camera is None
    }


def check_views(views: Sequence[EpisodeSource]) -> None:
    """Raises InputError where a dataset has samples, or tells the intrinsics, of some of its first cameras, not of all.

    A checkpoint keeps one camera of a dataset, which would stand in for the others. By each camera's first sample.
    """
    firsts = [next(_seen(view, "", ()), {}).get("") for view in views]
    if None in firsts and len(views) > 1:
        raise InputError(f"{views[firsts.index(None)].key} has no samples; leave that camera out.")
    known = [first is not None and first.camera is not None for first in firsts]
    if any(known) and not all(known):
        told, untold = views[known.index(True)], views[known.index(False)]
        raise InputError(
            f"{untold.key} does not tell its camera's intrinsics, and {told.key} does; give them with a mapping "
            "('cameras: {NAME: {image: …, intrinsics: …}}' or 'calibration: …'), or leave that camera out."
        )


def datasets_with(sources: Sequence[EpisodeSource], camera: str) -> int:
    """How many datasets have this camera beside the first; by 50 episodes."""
    looks = (islice(_seen(source, "", (camera,)), _LOOKED_THROUGH) for source in sources)
    return sum(any(camera in views for views in look) for look in looks)


def unplaced(key: str, camera: str, is_first: bool) -> str:
    """That a dataset does not tell where a camera stands, and what to do, in a sentence."""
    line = "extrinsics: …" if is_first else f"cameras: {{{camera}: {{extrinsics: …}}}}"
    return (
        f"{key} does not tell where its camera{'' if is_first else f' {camera!r}'} stands, which Ego3D in the robot's "
        f"frame has to know; give a mapping with the line '{line}' or 'calibration: …', or train with the camera's "
        "frame (--ego3d-frame camera)."
    )


def without_sensor(key: str) -> str:
    """That a dataset has no depth sensor, and what to do, in a sentence."""
    return f"{key} has no depth sensor; train with estimated depth alone."


def _seen(source: EpisodeSource, first: str, others: Collection[str]) -> Iterator[dict[str, EpisodeView]]:
    """The cameras by name of each episode with samples that can be read. What is damaged the survey will say."""
    for index in range(len(source)):
        try:
            episode = source.episode(index)
            beside = {name: view for name, view in episode.other_views.items() if name in others}
            for view in beside.values():
                _ = view.camera, view.extrinsics
        except CheckpointError:
            continue
        if len(episode.starts):
            yield {first: episode, **beside}

"""Episodes of any dataset in the one form that training knows, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from spatialvla.actions.units import ActionUnits
from spatialvla.errors import CheckpointError
from spatialvla.geometry.camera import Camera

OnBad = Literal["raise", "skip"]
"""Whether damaged data is an error, or is left out and said."""

CAMERA_POSE = "observation.camera_pose"
"""The column of the dataset's own first camera's pose in the frame of the state, where that is not the robot's, as in
LIBERO."""

TAKEOVER = "takeover"
"""The column that is not 0 where something else was done than the action says (DAgger)."""

STILL = "stands_still"
"""The column that is not 0 where nothing moves, of datasets without the samples that stand still throughout."""


class EpisodeView(Protocol):
    """What one more camera saw of an episode's T steps; camera, extrinsics and depth as of `Episode`."""

    @property
    def camera(self) -> Camera | None: ...
    @property
    def extrinsics(self) -> np.ndarray | None: ...

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB of some steps. Raises CheckpointError, naming the file, where it is broken."""

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        """(n, H, W) float32 meters of a sensor, 0 where there is no reading; None where there was no sensor."""


class Episode(Protocol):
    """T steps of one robot. Numbers are read at once, images when they are asked for.

    instruction: what to do, as `instruction_at` says it of the first step; "" where the dataset does not say.
    actions: (T, 7) float64 Δx Δy Δz Δroll Δpitch Δyaw gripper, in the dataset's units, gripper 1 = open.
    starts: (N,) the steps that samples may start at, ascending.
    camera: of the images, or None where it is not known.
    extrinsics: (T, 4, 4) takes points back-projected by the camera's K to the robot's frame at each step, in meters:
    camera -> robot base, mirrored (determinant −1) where the images are; None where it is not known.
    other_views: of the cameras beside the first, by their names; empty where there is none.
    state: (T, S) float64 how the arm stands at each step, in the dataset's units; None where it is not known.
    columns: (T, …) the dataset's other numbers of each step by their names; empty where it has no such.
    """

    @property
    def instruction(self) -> str: ...
    @property
    def actions(self) -> np.ndarray: ...
    @property
    def starts(self) -> np.ndarray: ...
    @property
    def camera(self) -> Camera | None: ...
    @property
    def extrinsics(self) -> np.ndarray | None: ...
    @property
    def other_views(self) -> Mapping[str, EpisodeView]: ...
    @property
    def state(self) -> np.ndarray | None: ...
    @property
    def columns(self) -> Mapping[str, np.ndarray]: ...

    def instruction_at(self, step: int) -> str:
        """What to do at one step: an episode may have several tasks, one after another."""

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB of some steps. Raises CheckpointError, naming the file, where it is broken."""

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        """(n, H, W) float32 meters of a sensor, 0 where there is no reading; None where there was no sensor."""


class EpisodeSource(Protocol):
    """One dataset; can be sent to other processes, and opens its files there anew.

    key: the name of its statistics in a checkpoint. control_hz: steps a second. units: of the actions, as far
    as they are known.
    fingerprint: changes with the dataset's files, their times, and how they are read: for caches.
    contents: stays the same when files are touched, copied or moved as they are: for what is gone on with.
    left_out: why each part of the dataset that is no episode cannot be read or used, a sentence each.
    doubts: what is odd about the files, though they can be read, a sentence each.
    """

    @property
    def key(self) -> str: ...
    @property
    def control_hz(self) -> float: ...
    @property
    def units(self) -> ActionUnits: ...
    @property
    def state_names(self) -> tuple[str, ...]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def contents(self) -> str: ...
    @property
    def left_out(self) -> Sequence[str]: ...
    @property
    def doubts(self) -> Sequence[str]: ...

    def __len__(self) -> int:
        """Episodes."""

    def prepare(self, workers: int) -> None:
        """Reads the dataset once, where single steps can be read by themselves afterwards. workers: processes."""

    def episode(self, index: int) -> Episode:
        """Any episode. Raises CheckpointError, naming the file, for damaged data."""


def filled(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts of T steps as T instructions: a step without words has those before it, or else the next ones."""
    words = [text.strip() for text in texts]
    current = next((text for text in words if text), "")
    found = []
    for text in words:
        current = text or current
        found.append(current)
    return tuple(found)


def moving(actions: np.ndarray) -> np.ndarray:
    """(T,) whether the arm is told to move at all in each of the `actions` (T, 7), the gripper aside."""
    return np.asarray((np.abs(actions[:, :6]) > 1e-5).any(axis=1))


def has_sensor(view: EpisodeView) -> bool:
    """Whether the camera has a depth sensor, also if what it measured cannot be read."""
    try:
        return view.depth([0]) is not None
    except CheckpointError:
        return True


class SeenThroughView:
    """What an episode says of its first camera, or a view of another one, said by a view."""

    view: EpisodeView

    @property
    def camera(self) -> Camera | None:
        """Of the first camera, as all below."""
        return self.view.camera

    @property
    def extrinsics(self) -> np.ndarray | None:
        """(T, 4, 4) camera -> robot base."""
        return self.view.extrinsics

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB. Raises CheckpointError, naming the file, where it is broken."""
        return self.view.images(steps)

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        """(n, H, W) float32 meters, 0 where there is no reading; None where there was no sensor."""
        return self.view.depth(steps)


@dataclass(frozen=True)
class EpisodeWrapper:
    """An episode of which a subclass changes something; the rest is the wrapped one's."""

    episode: Episode

    @property
    def instruction(self) -> str:
        """The wrapped one's, as is all below."""
        return self.episode.instruction

    @property
    def actions(self) -> np.ndarray:
        """(T, 7) in the dataset's units."""
        return self.episode.actions

    @property
    def starts(self) -> np.ndarray:
        """(N,) the steps that samples may start at."""
        return self.episode.starts

    @property
    def camera(self) -> Camera | None:
        """Of the images."""
        return self.episode.camera

    @property
    def extrinsics(self) -> np.ndarray | None:
        """(T, 4, 4) camera -> robot base."""
        return self.episode.extrinsics

    @property
    def other_views(self) -> Mapping[str, EpisodeView]:
        """Of the cameras beside the first."""
        return self.episode.other_views

    @property
    def state(self) -> np.ndarray | None:
        """(T, S) how the arm stands."""
        return self.episode.state

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """(T, …) the dataset's other numbers."""
        return self.episode.columns

    def instruction_at(self, step: int) -> str:
        """What to do at one step."""
        return self.episode.instruction_at(step)

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB."""
        return self.episode.images(steps)

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        """(n, H, W) float32 meters, or None."""
        return self.episode.depth(steps)


@dataclass(frozen=True)
class SourceWrapper:
    """A dataset of which a subclass changes something; the rest is the wrapped one's."""

    source: EpisodeSource

    @property
    def key(self) -> str:
        """The name of its statistics in a checkpoint."""
        return self.source.key

    @property
    def control_hz(self) -> float:
        """Steps a second."""
        return self.source.control_hz

    @property
    def units(self) -> ActionUnits:
        """Of the actions."""
        return self.source.units

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the numbers of the states are."""
        return self.source.state_names

    @property
    def fingerprint(self) -> str:
        """Changes with the dataset's files, their times, and how they are read."""
        return self.source.fingerprint

    @property
    def contents(self) -> str:
        """Stays the same when files are touched, copied or moved as they are."""
        return self.source.contents

    @property
    def left_out(self) -> Sequence[str]:
        """Why each part that is no episode cannot be read or used."""
        return self.source.left_out

    @property
    def doubts(self) -> Sequence[str]:
        """What is odd about the files."""
        return self.source.doubts

    def __len__(self) -> int:
        return len(self.source)

    def prepare(self, workers: int) -> None:
        """Reads the dataset once, where single steps can be read by themselves afterwards."""
        self.source.prepare(workers)

    def episode(self, index: int) -> Episode:
        """Any episode. Raises CheckpointError, naming the file, for damaged data."""
        return self.source.episode(index)


@dataclass(frozen=True)
class MovingChunks(SourceWrapper):
    """A dataset without the samples of which all of the `chunk` steps stand still, as its column STILL says."""

    chunk: int

    @property
    def fingerprint(self) -> str:
        """Of the dataset and the length of a chunk."""
        return f"{self.source.fingerprint} in moving chunks of {self.chunk}"

    def episode(self, index: int) -> Episode:
        """An episode with fewer starts. Raises CheckpointError, naming the file, for damaged data."""
        episode = self.source.episode(index)
        if STILL not in episode.columns:
            return episode
        still = _marked(episode, STILL, episode.starts, self.chunk).all(axis=1)
        return _FewerStarts(episode, episode.starts[~still]) if still.any() else episode


@dataclass(frozen=True)
class _FewerStarts(EpisodeWrapper):
    kept: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        return self.kept


def planned_steps(episode: Episode, steps: np.ndarray, chunk: int) -> np.ndarray:
    """(B,) how many first actions of the chunks from `steps` (B,) on are one plan: 1 to `chunk`.

    Where a policy drove, as the column TAKEOVER says, each action of the expert's answers the state that the policy
    got into. It is right there, but what comes behind it answers a state that it would not have led to.
    """
    if TAKEOVER not in episode.columns:
        return np.full(len(steps), chunk)
    driven = _marked(episode, TAKEOVER, steps, chunk)
    driven[:, -1] = True
    return np.asarray(1 + driven.argmax(axis=1))


def _marked(episode: Episode, column: str, steps: np.ndarray, chunk: int) -> np.ndarray:
    """(B, chunk) whether a column is not 0 in each step of the chunks; past the end it is what it was last."""
    marks = episode.columns[column].reshape(-1) != 0
    return np.asarray(marks[np.minimum(steps[:, None] + np.arange(chunk), len(marks) - 1)])


def action_chunks(actions: np.ndarray, steps: np.ndarray, chunk: int) -> np.ndarray:
    """(B, chunk, 7): the actions of one episode, (T, 7), from each of the `steps` (B,) on.

    Past the end the robot stands still: relative dimensions are 0 and the gripper repeats.
    """
    rows = steps[:, None] + np.arange(chunk)
    last = len(actions) - 1
    found = actions[np.minimum(rows, last)]
    found[rows > last, :6] = 0
    return found

"""Episodes of any dataset in the one form that training knows, and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from spatialvla.geometry.camera import Camera


class Episode(Protocol):
    """T steps of one robot. Numbers are read at once, images when they are asked for.

    instruction: what to do, lower-case; "" where the dataset does not say.
    actions: (T, 7) float64 Δx Δy Δz Δroll Δpitch Δyaw gripper, in the dataset's units, gripper 1 = open.
    starts: (N,) the steps that samples may start at, ascending.
    camera: of the images, or None where it is not known.
    """

    @property
    def instruction(self) -> str: ...
    @property
    def actions(self) -> np.ndarray: ...
    @property
    def starts(self) -> np.ndarray: ...
    @property
    def camera(self) -> Camera | None: ...

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB of some steps. Raises CheckpointError, naming the place, for a broken file."""

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        """(n, H, W) float32 metres of a sensor, 0 where there is no reading; None where there was no sensor."""


class EpisodeSource(Protocol):
    """One dataset; can be sent to other processes, and opens its files there anew.

    key: the name of its statistics in a checkpoint. control_hz: steps a second.
    fingerprint: changes when the dataset's content, or how it is read, does.
    """

    @property
    def key(self) -> str: ...
    @property
    def control_hz(self) -> float: ...
    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int:
        """Episodes."""

    def episode(self, index: int) -> Episode:
        """Any episode. Raises CheckpointError, naming the place, for damaged data."""


def moving(actions: np.ndarray) -> np.ndarray:
    """(T,) whether the arm is told to move at all in each of the `actions` (T, 7), the gripper aside."""
    return np.asarray((np.abs(actions[:, :6]) > 1e-5).any(axis=1))


def action_chunks(actions: np.ndarray, steps: np.ndarray, ends: np.ndarray | int, chunk: int) -> np.ndarray:
    """(B, chunk, 7): the actions from each of the `steps` (B,) on.

    actions: (N, 7) of one or more episodes. ends: (B,) or one number, one past the last step of each one's episode.
    Past the end the robot stands still: relative dimensions are 0 and the gripper repeats.
    """
    rows = steps[:, None] + np.arange(chunk)
    last = np.broadcast_to(ends, steps.shape)[:, None] - 1
    found = actions[np.minimum(rows, last)]
    found[rows > last, :6] = 0
    return found

"""An auxiliary loss on what the robot knew but the policy must see. Its head is discarded at export."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.data.in_memory import EpisodeSamples
from spatialvla.errors import InputError

_NAME = re.compile(r"(?P<feature>[^\[@]+)(\[(?P<start>\d+):(?P<stop>\d+)\])?(?P<keyframe>@keyframe)?")
_SMALLEST_SPREAD = 1e-6
LINEAR_FROM = 0.1
"""Standard deviations from which on the error counts linearly, so that centimetres still matter."""


class PrivilegedTargets:
    """The values to regress, side by side and standardised: (N, targets) float32.

    A name is "feature", or "feature[start:stop]" for some of its numbers. With "@keyframe" behind it, it is the
    value when the gripper next opens or closes, or at the episode's end: with the robot's position that says
    where the object to grasp, or the place to put it, is. Leave out rotation vectors near half a turn, whose
    sign jumps.
    """

    def __init__(self, samples: EpisodeSamples, names: tuple[str, ...]) -> None:
        """Raises InputError where the dataset lacks a feature."""
        self.values = standardised(
            np.concatenate([privileged_values(samples, name) for name in names], axis=1)
        )

    @property
    def size(self) -> int:
        return self.values.shape[1]

    def batch(self, indices: np.ndarray) -> torch.Tensor:
        """(B, targets) of these frames."""
        return torch.from_numpy(self.values[indices])


class PrivilegedHead(nn.Module):
    """Reads the targets off the decoder's state at the prompt's last token, which has seen image and text."""

    def __init__(self, hidden_size: int, targets: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, targets)

    def loss(self, prompt_hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Smooth L1 between the prediction from (B, D) and the standardised (B, targets)."""
        return F.smooth_l1_loss(self.linear(prompt_hidden.float()), targets, beta=LINEAR_FROM)


def privileged_values(samples: EpisodeSamples, name: str) -> np.ndarray:
    """(N, numbers) of what `name` says, see `PrivilegedTargets`. Raises InputError where the dataset lacks it."""
    match = _NAME.fullmatch(name)
    if match is None or match["feature"] not in samples.columns:
        raise InputError(
            f"The dataset has no '{name}' to regress; it has {', '.join(samples.columns)}, each also with "
            "[start:stop] and @keyframe behind it."
        )
    values = samples.columns[match["feature"]].reshape(len(samples), -1)
    if match["start"] is not None:
        values = values[:, int(match["start"]) : int(match["stop"])]
    return values[keyframes(samples)] if match["keyframe"] else values


def standardised(table: np.ndarray) -> np.ndarray:
    """Each column of (N, columns) with mean 0 and deviation 1, float32; a column that never changes becomes 0."""
    spread = table.std(axis=0)
    moves = spread > _SMALLEST_SPREAD
    return ((table - table.mean(axis=0)) / np.where(moves, spread, 1)).astype(np.float32)


def keyframes(samples: EpisodeSamples) -> np.ndarray:
    """(N,) for each frame the next one whose gripper action differs from its own, or its episode's last."""
    closed = samples.actions[:, 6] < 0.5
    following = np.empty(len(samples), dtype=np.int64)
    for start, end in zip(samples.starts, samples.ends, strict=True):
        changes = start + 1 + np.flatnonzero(closed[start + 1 : end] != closed[start : end - 1])
        stops = np.append(changes, end - 1)
        following[start:end] = stops[np.searchsorted(changes, np.arange(start, end), side="right")]
    return following

"""An auxiliary loss on what the robot knew but the policy must see. Its head is discarded at export."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.data.episodes import Episode
from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.errors import InputError
from spatialvla.training.guidance.step_table import Steps, standardized

_NAME = re.compile(r"(?P<feature>[^\[@]+)(\[(?P<start>\d+):(?P<stop>\d+)\])?(?P<keyframe>@keyframe)?")
LINEAR_FROM = 0.1
"""Standard deviations from which on the error counts linearly, so that centimeters still matter."""


class PrivilegedTargets:
    """The values to regress, side by side and standardized: (N, targets) float32.

    A name is "feature", or "feature[start:stop]" for some of its numbers. With "@keyframe" behind it, it is
    the value when the gripper next opens or closes, or at the episode's end: with the robot's position that
    says where the object to grasp, or the goal to put it at, is. Leave out rotation vectors near half a turn,
    whose sign jumps.
    """

    def __init__(self, steps: Steps, names: tuple[str, ...]) -> None:
        """Raises InputError where a dataset lacks a feature."""
        self.steps = steps
        self.values = standardized(
            steps.table(
                lambda episode: np.concatenate([privileged_values(episode, name) for name in names], axis=1)
            )
        )

    @property
    def size(self) -> int:
        """How many numbers a step has."""
        return int(self.values.shape[1])

    def batch(self, loaded: LoadedBatch) -> torch.Tensor:
        """(B, targets) of a batch's samples."""
        return torch.from_numpy(self.values[self.steps.rows(loaded)])


class PrivilegedHead(nn.Module):
    """Reads the targets off the decoder's state at the prompt's last token, which has seen image and text."""

    def __init__(self, hidden_size: int, targets: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, targets)

    def loss(self, prompt_hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Smooth L1 between the prediction from (B, D) and the standardized (B, targets)."""
        return F.smooth_l1_loss(self.linear(prompt_hidden.float()), targets, beta=LINEAR_FROM)


def privileged_values(episode: Episode, name: str) -> np.ndarray:
    """(T, numbers) of what `name` says, see `PrivilegedTargets`.

    Raises InputError where the dataset lacks it.
    """
    match = _NAME.fullmatch(name)
    if not episode.columns:
        raise InputError(
            f"The dataset has no '{name}' to regress, nor other numbers beside its actions, as datasets of RLDS and "
            "RH20T; leave the guidance by them out, as `spatialvla pretrain --preset nano` does."
        )
    if match is None or match["feature"] not in episode.columns:
        raise InputError(
            f"The dataset has no '{name}' to regress; it has {', '.join(episode.columns)}, each also with "
            "[start:stop] and @keyframe behind it."
        )
    values = episode.columns[match["feature"]].reshape(len(episode.actions), -1)
    if match["start"] is not None:
        start, stop = int(match["start"]), int(match["stop"])
        if not start < stop <= values.shape[1]:
            raise InputError(
                f"'{name}' names none or more than the {values.shape[1]} numbers of the dataset's "
                f"{match['feature']}; correct [start:stop]."
            )
        values = values[:, start:stop]
    return values[keyframes(episode.actions)] if match["keyframe"] else values


def keyframes(actions: np.ndarray) -> np.ndarray:
    """(T,) for each step of an episode the next whose gripper action differs from its own, or the last."""
    closed = actions[:, 6] < 0.5
    changes = 1 + np.flatnonzero(closed[1:] != closed[:-1])
    stops = np.append(changes, len(actions) - 1)
    return stops[np.searchsorted(changes, np.arange(len(actions)), side="right")]

"""An auxiliary loss on what the robot knew but the policy must see. Its head is discarded at export."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.data.samples import EpisodeSamples
from spatialvla.errors import InputError

KEYFRAME = "@keyframe"
_SMALLEST_SPREAD = 1e-6


class PrivilegedTargets:
    """The values to regress, side by side and standardised: (N, targets) float32.

    A name is a feature, or "<feature>@keyframe": the feature's value when the gripper next opens or closes, or at
    the episode's end. With the robot's pose that says where the object to grasp, or the place to put it, is.
    """

    def __init__(self, samples: EpisodeSamples, names: tuple[str, ...]) -> None:
        """Raises InputError where the dataset lacks a feature."""
        columns = []
        for name in names:
            feature = name.removesuffix(KEYFRAME)
            if feature not in samples.columns:
                raise InputError(
                    f"The dataset has no feature '{feature}' to regress; it has {', '.join(samples.columns)}."
                )
            values = samples.columns[feature].reshape(len(samples), -1)
            columns.append(values[keyframes(samples)] if name.endswith(KEYFRAME) else values)
        table = np.concatenate(columns, axis=1)
        spread = table.std(axis=0)
        moves = spread > _SMALLEST_SPREAD
        self.values = ((table - table.mean(axis=0)) / np.where(moves, spread, 1)).astype(np.float32)

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
        return F.smooth_l1_loss(self.linear(prompt_hidden.float()), targets)


def keyframes(samples: EpisodeSamples) -> np.ndarray:
    """(N,) for each frame the next one whose gripper action differs from its own, or its episode's last."""
    closed = samples.actions[:, 6] < 0.5
    following = np.empty(len(samples), dtype=np.int64)
    for start, end in zip(samples.starts, samples.ends, strict=True):
        changes = start + 1 + np.flatnonzero(closed[start + 1 : end] != closed[start : end - 1])
        stops = np.append(changes, end - 1)
        following[start:end] = stops[np.searchsorted(changes, np.arange(start, end), side="right")]
    return following

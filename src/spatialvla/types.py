"""What crosses the boundaries: frozen dataclasses with shapes, units and frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

IGNORED = -100
"""The label of a token on which no loss is taken."""
GIVEN = -101
"""The label of an action token that is given: no loss is taken on it, and yet it is no part of the prompt."""

ACTION_AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""What the seven numbers of an action are, in order."""

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@dataclass(frozen=True)
class Observation:
    """What a robot sees at one moment.

    image: (H, W, 3) uint8 RGB, or a PIL image of any mode.
    instruction: what to do, in plain words.
    intrinsics: K, (3, 3), in pixels of `image`; None takes the checkpoint's own camera.
    depth: (H, W) metres along the optical axis, from a sensor; None lets the model estimate it.
    """

    image: np.ndarray | Image
    instruction: str
    intrinsics: np.ndarray | None = None
    depth: np.ndarray | None = None


@dataclass(frozen=True)
class ActionChunk:
    """Actions for the next steps, first to last.

    actions: (T, 7) float64: Δx, Δy, Δz, Δroll, Δpitch, Δyaw in the dataset's units, gripper in [0, 1] with 1 = open.
    tokens: (T, 3) translation, rotation and gripper token numbers on the action grid.
    """

    actions: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Batch:
    """What enters the model. B rows of T tokens; pixels of a square image of side H = W.

    input_ids: (B, T) int64, left padded for inference, right padded for training.
    attention_mask: (B, T) bool, False on padding.
    pixel_values: (B, 3, H, W) float32 in [0, 1].
    intrinsics: (B, 3, 3) float32 K in pixels of `pixel_values`.
    labels: (B, T) int64, IGNORED or GIVEN where no loss is taken; None at inference.
    depth: (B, H, W) float32 metres from a sensor; None lets the model estimate it.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pixel_values: torch.Tensor
    intrinsics: torch.Tensor
    labels: torch.Tensor | None = None
    depth: torch.Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        moved = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if value is not None
        }
        return replace(self, **moved)

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def __getitem__(self, rows: slice) -> Batch:
        """Some of the rows."""
        return replace(self, **{name: value[rows] for name, value in vars(self).items() if value is not None})

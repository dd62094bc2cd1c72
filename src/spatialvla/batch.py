"""What enters the network: a batch of images, prompts and, for training, labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int

IGNORED = -100
"""The label of a token on which no loss is taken."""
GIVEN = -101
"""The label of an action token that is given: no loss is taken on it, and yet it is no part of the prompt."""


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens, with a square image of side S each.

    input_ids: padded on the left for inference, on the right for training.
    attention_mask: False on padding.
    pixel_values: in [0, 1].
    intrinsics: K in pixels of `pixel_values`.
    labels: IGNORED or GIVEN where no loss is taken; None at inference.
    depth: meters from a sensor; None lets the model estimate it.
    extrinsics: takes points back-projected by `intrinsics` to the robot's frame, in meters; None where the model's
    Ego3D works in the camera's.
    """

    input_ids: Int[torch.Tensor, "B T"]
    attention_mask: Bool[torch.Tensor, "B T"]
    pixel_values: Float[torch.Tensor, "B 3 S S"]
    intrinsics: Float[torch.Tensor, "B 3 3"]
    labels: Int[torch.Tensor, "B T"] | None = None
    depth: Float[torch.Tensor, "B S S"] | None = None
    extrinsics: Float[torch.Tensor, "B 4 4"] | None = None

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

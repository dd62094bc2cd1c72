"""What enters the network: a batch of images, prompts and, for training, labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Real
from torch.nn import functional as F

IGNORED = -100
"""The label of a token on which no loss is taken."""
GIVEN = -101
"""The label of an action token that is given: no loss is taken on it, and yet it is no part of the prompt."""


_OF_IMAGES = ("pixel_values", "intrinsics", "depth", "depth_known", "extrinsics")


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens, with V square images of side S each: N = B·V, the first row's first.

    Image tokens hold the slots of a row's V images, one after another, and one more that of its state.
    input_ids: padded on the left for inference, on the right for training.
    attention_mask: False on padding, and in the slots of an image or a state that is missing in a row.
    pixel_values: in [0, 1]; of a batch on its way between processes in 0 … 255, to be used by `in_unit_range`.
    intrinsics: K in pixels of `pixel_values`.
    labels: IGNORED or GIVEN where no loss is taken; None at inference.
    depth: meters from a sensor; None lets the model estimate it. depth_known: of which images a sensor measured it,
    where not of all; the model estimates that of the others.
    extrinsics: takes points back-projected by `intrinsics` to the robot's frame, in meters; None where the model's
    Ego3D works in the camera's.
    state: how each arm stands, in [-1, 1]; None where no row says.
    """

    input_ids: Int[torch.Tensor, "B T"]
    attention_mask: Bool[torch.Tensor, "B T"]
    pixel_values: Real[torch.Tensor, "N 3 S S"]
    intrinsics: Float[torch.Tensor, "N 3 3"]
    labels: Int[torch.Tensor, "B T"] | None = None
    depth: Float[torch.Tensor, "N S S"] | None = None
    extrinsics: Float[torch.Tensor, "N 4 4"] | None = None
    depth_known: Bool[torch.Tensor, " N"] | None = None
    state: Float[torch.Tensor, "B size"] | None = None

    @property
    def views(self) -> int:
        """V."""
        return self.pixel_values.shape[0] // self.input_ids.shape[0]

    def is_action(self, first: int) -> Bool[torch.Tensor, "B T"]:
        """Which tokens of a training batch are the chunks', with a loss on them or without. first: their lowest id."""
        assert self.labels is not None
        return (self.labels != IGNORED) & (self.input_ids >= first)

    def in_unit_range(self) -> Batch:
        """The same batch with pixels in [0, 1], of uint8 ones."""
        return replace(self, pixel_values=self.pixel_values.float().div_(255))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        moved = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if value is not None
        }
        return replace(self, **moved)

    def filled(self, multiple: int, token: int) -> Batch:
        """A training batch with padding on the right, of this token, up to the next such multiple of tokens."""
        missing = -self.input_ids.shape[1] % multiple
        if missing == 0:
            return self
        fillings: dict[str, int] = {"input_ids": token, "attention_mask": False, "labels": IGNORED}
        longer = {
            name: F.pad(value, (0, missing), value=filling)
            for name, filling in fillings.items()
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **longer)

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def __getitem__(self, rows: slice) -> Batch:
        """Some of the rows."""
        kept = {}
        for name, value in vars(self).items():
            if value is None:
                continue
            of_images = name in _OF_IMAGES
            by_row = value.unflatten(0, (len(self), self.views)) if of_images else value
            kept[name] = by_row[rows].flatten(0, 1) if of_images else by_row[rows]
        return replace(self, **kept)

"""A linear layer with its weight in 4 bits, for any device: what is saved, and what other layouts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.kernels.four_bits import FourBits
from spatialvla.kernels.products import GROUP


class FourBitLinear(nn.Module):
    """The weight is widened to the activations' dtype for each product: portable, and slow.

    numbers, scales: of `FourBits`. They and the bias are the layer's tensors in a checkpoint.
    """

    numbers: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: FourBits, inputs: int, bias: torch.Tensor | None = None) -> None:
        """inputs: K of the weight (N, K)."""
        super().__init__()
        self.inputs = inputs
        self.register_buffer("numbers", weight.numbers)
        self.register_buffer("scales", weight.scales)
        self.register_buffer("bias", None if bias is None else bias.detach())

    @classmethod
    def empty(cls, inputs: int, outputs: int, bias: torch.Tensor | None = None) -> Self:
        """A layer to be filled."""
        groups = -(-inputs // GROUP)
        numbers = torch.empty(outputs, groups * GROUP // 2, dtype=torch.uint8)
        return cls(FourBits(numbers, torch.empty(outputs, groups, dtype=torch.int32)), inputs, bias)

    @property
    def weight(self) -> FourBits:
        """The weight, as it is kept."""
        return FourBits(self.numbers, self.scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) -> (…, N)"""
        return F.linear(x, self.weight.widened(x.dtype, self.inputs), self.bias)


def joined(layers: Sequence[FourBitLinear]) -> FourBitLinear:
    """One layer with the outputs of several that have the same inputs and no bias."""
    numbers, scales = (
        torch.cat([getattr(layer, name) for layer in layers]) for name in ("numbers", "scales")
    )
    return FourBitLinear(FourBits(numbers, scales), layers[0].inputs)

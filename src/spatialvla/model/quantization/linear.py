"""A linear layer with its weight in 4 bits, for any device: what is saved, and what other layouts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.kernels.four_bits import FourBits
from spatialvla.kernels.products import GROUP


class FourBitLinear(nn.Module):
    """The weight is widened to the activations' dtype for each product: portable, and slow.

    numbers, scales: of `FourBits`. They and the bias are the layer's tensors in a checkpoint. Gradients reach the
    layer's inputs, for which the weight is widened once more, but never the weight itself.
    infeatures, outfeatures, qweight: K, N and the numbers, as peft calls them where it adds adapters.
    """

    numbers: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: FourBits, inputs: int, bias: torch.Tensor | None = None) -> None:
        """inputs: K of the weight (N, K)."""
        super().__init__()
        self.infeatures, self.outfeatures = inputs, len(weight.numbers)
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
    def four_bits(self) -> FourBits:
        """The weight, as it is kept."""
        return FourBits(self.numbers, self.scales)

    @property
    def qweight(self) -> torch.Tensor:
        """The numbers, by which peft finds the device."""
        return self.numbers

    def widened(self, dtype: torch.dtype) -> nn.Linear:
        """An ordinary layer with the same weight."""
        with torch.device("meta"):
            layer = nn.Linear(self.infeatures, self.outfeatures, bias=self.bias is not None)
        layer.weight = nn.Parameter(self.four_bits.widened(dtype, self.infeatures), requires_grad=False)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.to(dtype), requires_grad=False)
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) -> (…, N)"""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        given = (x, self.numbers, self.scales, self.bias, self.infeatures)
        product: torch.Tensor = _Product.apply(*given)  # type: ignore[no-untyped-call]
        return product


class _Product(torch.autograd.Function):
    """Keeps the weight in 4 bits for the backward pass, where autograd would keep it widened."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        numbers: torch.Tensor,
        scales: torch.Tensor,
        bias: torch.Tensor | None,
        inputs: int,
    ) -> torch.Tensor:
        ctx.save_for_backward(numbers, scales)
        ctx.inputs = inputs
        return F.linear(x, FourBits(numbers, scales).widened(x.dtype, inputs), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        weight = FourBits(*ctx.saved_tensors).widened(gradient.dtype, ctx.inputs)
        return gradient @ weight, None, None, None, None


def joined(layers: Sequence[FourBitLinear]) -> FourBitLinear:
    """One layer with the outputs of several that have the same inputs and no bias."""
    numbers, scales = (
        torch.cat([getattr(layer, name) for layer in layers]) for name in ("numbers", "scales")
    )
    return FourBitLinear(FourBits(numbers, scales), layers[0].infeatures)

"""Linear layers for inference: weights in 16 bits, or in 8 or 4 with scales, in whatever layout is fastest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.kernels.decoder import PackedWeight
from spatialvla.kernels.four_bits import int4_product
from spatialvla.kernels.library import available, serve
from spatialvla.kernels.products import bf16_product, int8_product, pack_bf16, pack_int8
from spatialvla.model.quantization.linear import FourBitLinear
from spatialvla.model.quantization.rounding import rounded

WeightFormat = Literal["int4", "int8", "fp8"]
"""What weights are kept in where they are not kept as they were loaded."""

DTYPES: Mapping[WeightFormat, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}

FEW_ROWS = 16
"""Up to so many rows a product waits for memory, not for the processor."""


def has_matrix_units() -> bool:
    """Whether this CPU has AMX, with which oneDNN multiplies many rows faster than vector units can."""
    return torch.cpu._is_amx_tile_supported()


class DenseLinear(nn.Module):
    """A linear layer as PyTorch computes it. weight: (N, K)."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) -> (…, N)"""
        return F.linear(x, self.weight, self.bias)


class ScaledLinear(nn.Module):
    """The same with a weight in 8 bits and a float32 scale for each of its rows, symmetric around zero.

    weight: (N, K) int8 or float8_e4m3fn. scale: (N,). Activations stay as they are; the weight is widened to
    their dtype for each product.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        """weight: (N, K) as it was trained. dtype: int8 or float8_e4m3fn."""
        super().__init__()
        narrow, scale = quantize(weight.detach(), dtype)
        self.register_buffer("weight", narrow)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) -> (…, N)"""
        # Scaled in float32: a compiler that sees the scale in the dtype of x takes a product of 8 bits which it
        # has for CPUs alone.
        product = (F.linear(x, self.weight.to(x.dtype)).float() * self.scale).to(x.dtype)
        return product if self.bias is None else product + self.bias


class PackedLinear(nn.Module):
    """A bfloat16 linear layer of a CPU with the kernels.

    Where the processor has matrix units (AMX), which oneDNN uses, many rows take that way, with the weight as
    it was beside the packed one.
    """

    packed: torch.Tensor
    bias: torch.Tensor | None
    dense: DenseLinear | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.outputs, self.inputs = weight.shape
        self.register_buffer("packed", pack_bf16(weight.detach()))
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.dense = DenseLinear(weight, bias) if has_matrix_units() else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) -> (…, N)"""
        if self.dense is not None and x.numel() // x.shape[-1] > FEW_ROWS:
            return cast(torch.Tensor, self.dense(x))
        return bf16_product(x, self.packed, self.bias, self.outputs)

    def weight_for_kernels(self) -> PackedWeight:
        """The packed weight."""
        return PackedWeight(self.packed, self.outputs, self.inputs)


class PackedInt8Linear(nn.Module):
    """The same with a weight in 8 bits, a scale for every 128 inputs of each output.

    Activations stay in 16 bits or are rounded to 8, with a scale for every 128 inputs of a row, too, for each
    product anew, so that an outlier costs its neighbors alone the precision.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation_bits: int) -> None:
        super().__init__()
        self.outputs, self.inputs = weight.shape
        self.activation_bits = activation_bits
        packed, scales = pack_int8(weight.detach())
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) -> (…, N)"""
        return int8_product(x, self.packed, self.scales, self.bias, self.outputs, self.activation_bits)

    def weight_for_kernels(self) -> PackedWeight:
        """The packed weight."""
        return PackedWeight(self.packed, self.outputs, self.inputs, 8, self.activation_bits, self.scales)


class PackedFourBitLinear(nn.Module):
    """The same with a weight in 4 bits."""

    packed: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, layer: FourBitLinear, activation_bits: int) -> None:
        super().__init__()
        self.outputs, self.inputs = len(layer.numbers), layer.infeatures
        self.activation_bits = activation_bits
        self.register_buffer("packed", layer.four_bits.packed())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) -> (…, N)"""
        return int4_product(x, self.packed, self.bias, self.outputs, self.activation_bits)

    def weight_for_kernels(self) -> PackedWeight:
        """The packed weight."""
        return PackedWeight(self.packed, self.outputs, self.inputs, 4, self.activation_bits)


def four_bit_linear(layer: FourBitLinear, activation_bits: int = 16) -> nn.Module:
    """The layer with this one's weight that is fastest where it is. activation_bits: as of `linear`."""
    if layer.numbers.device.type == "cpu" and available():
        return PackedFourBitLinear(layer, activation_bits)
    return layer


def linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    bits: WeightFormat | None = None,
    activation_bits: int = 16,
    many_rows: bool = False,
) -> nn.Module:
    """The layer for this weight (N, K) that is fastest where it is.

    bits: of the weight; None leaves it as it is. activation_bits: 8 lets a CPU with the kernels multiply with
    activations of 8 bits where the weight has as many or fewer. many_rows: it will never be given few.
    """
    if bits == "int4":
        return four_bit_linear(FourBitLinear(rounded(weight), weight.shape[1], bias), activation_bits)
    if bits is None:
        packable = serve(weight) and weight.shape[1] % 2 == 0 and not (many_rows and has_matrix_units())
        return PackedLinear(weight, bias) if packable else DenseLinear(weight, bias)
    if bits == "int8" and weight.device.type == "cpu" and available():
        return PackedInt8Linear(weight, bias, activation_bits)
    return ScaledLinear(weight, bias, DTYPES[bits])


def replace_linears(module: nn.Module, bits: WeightFormat | None = None, activation_bits: int = 16) -> None:
    """Replaces the linear layers of a vision tower, in place, by those of `linear` where these differ."""
    for part in list(module.modules()):
        for name, layer in list(part.named_children()):
            if isinstance(layer, FourBitLinear):
                setattr(part, name, four_bit_linear(layer, activation_bits))
            elif type(layer) is nn.Linear:
                fast = linear(layer.weight, layer.bias, bits, activation_bits, many_rows=True)
                if not isinstance(fast, DenseLinear):
                    setattr(part, name, fast)


def quantize(weight: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) -> the same in `dtype` (int8 or float8_e4m3fn), and the float32 scales (N,) of its rows."""
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    wide = weight.float()
    scale = wide.abs().amax(dim=1).clamp(min=1e-12) / largest
    narrow = wide / scale[:, None]
    return (narrow.round() if dtype == torch.int8 else narrow).to(dtype), scale

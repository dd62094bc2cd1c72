"""Linear layers for inference: weights in 16 bits, or in 8 with a scale for each row, read as fast as memory allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.model import kernels

EightBits = Literal["int8", "fp8"]
DTYPES: Mapping[EightBits, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(…, K) times (N, K) transposed: (…, N), by whatever is fastest for so many rows."""
    if _few(x) and x.dtype == weight.dtype == torch.bfloat16 and kernels.available():
        return kernels.bf16_rows(x, weight)
    return F.linear(x, weight)


class DenseLinear(nn.Module):
    """A linear layer without bias whose few rows of input, as in a decode step, take the way that suits them.

    weight: (N, K).
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) -> (…, N)"""
        return product(x, self.weight)


class QuantizedLinear(nn.Module):
    """The same with a weight in 8 bits and a float32 scale for each of its rows, symmetric around zero.

    weight: (N, K) int8 or float8_e4m3fn. scale: (N,). Activations stay as they are; many rows of them meet a weight
    that is widened to their dtype first.
    """

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype) -> None:
        """weight: (N, K) as it was trained. dtype: int8 or float8_e4m3fn."""
        super().__init__()
        narrow, scale = quantize(weight.detach(), dtype)
        self.register_buffer("weight", narrow)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) -> (…, N)"""
        if _few(x) and x.dtype == torch.bfloat16 and self.weight.dtype == torch.int8 and kernels.available():
            return kernels.int8_rows(x, self.weight, self.scale)
        return F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)


class PackedLinear(nn.Module):
    """A bfloat16 linear layer of a CPU, its weight laid out once as oneDNN wants it instead of at every product.

    Suits many rows, as in the vision towers; few rows are slower than with `DenseLinear`.
    """

    def __init__(self, layer: nn.Linear, rows: int) -> None:
        """rows: how many it will mostly be given."""
        super().__init__()
        self.bias = layer.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, K) -> (…, N)"""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def pack_linears(module: nn.Module, rows: int) -> None:
    """Packs the bfloat16 linear layers of a module in place, where this torch can."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")):
        return
    for part in list(module.modules()):
        for name, layer in list(part.named_children()):
            if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16:
                setattr(part, name, PackedLinear(layer, rows))


def quantize(weight: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) -> the same in `dtype` (int8 or float8_e4m3fn), and the float32 scales (N,) to multiply it with."""
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    wide = weight.float()
    scale = wide.abs().amax(dim=1).clamp(min=1e-12) / largest
    narrow = wide / scale[:, None]
    return (narrow.round() if dtype == torch.int8 else narrow).to(dtype), scale


def linear(weight: torch.Tensor, bits: EightBits | None) -> nn.Module:
    """A layer for this weight (N, K): in 8 bits, or as it is."""
    return DenseLinear(weight) if bits is None else QuantizedLinear(weight, DTYPES[bits])


def _few(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.numel() // x.shape[-1] <= kernels.MAX_ROWS

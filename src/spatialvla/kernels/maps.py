"""Maps of a CPU as operators: bilinear resizing, and what ZoeDepth does with depth bins at every pixel.

All maps are bfloat16 and channels_last; what is not is made so. Nothing is rounded within an operator.
"""

from __future__ import annotations

import ctypes

import torch

from spatialvla.kernels.library import (
    ADDRESS,
    FLAG,
    NUMBER,
    SIZE,
    bfloat16,
    entry,
    operator,
    pointer,
    require,
)

_SIZES = ctypes.c_long * 6
_LAST = torch.channels_last


def resize(
    x: torch.Tensor, height: int, width: int, align_corners: bool, plus: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, C, h, w) -> (B, C, height, width), bilinear as `F.interpolate`, plus a map of that shape."""
    return _resize_operator(x, plus, height, width, align_corners)


def attract(bins: torch.Tensor, attractors: torch.Tensor, alpha: float, mean: bool) -> torch.Tensor:
    """Bins (B, N, h, w) resized with aligned corners and drawn to attractors (B, A, H, W): (B, N, H, W).

    Each attractor at the distance d moves a bin by d / (1 + alpha d²). mean: of the attractors, not their
    sum.
    """
    return _attract_operator(bins, attractors, alpha, mean)


def expected_bin(
    bins: torch.Tensor, constants: torch.Tensor, slopes: torch.Tensor, sharpness: torch.Tensor
) -> torch.Tensor:
    """The mean of bins (B, N, h, w) under a softmax at each pixel: (B, H, W) float32.

    The bins are resized with aligned corners. Bin k has the score (constants[k] + k slopes) sharpness.
    constants: (N,). slopes, sharpness: (B, H, W) float32.
    """
    return _expected_bin_operator(bins, constants, slopes, sharpness)


def _resize(
    x: torch.Tensor, plus: torch.Tensor | None, height: int, width: int, align_corners: bool
) -> torch.Tensor:
    bfloat16(x, plus)
    x = x.contiguous(memory_format=_LAST)
    y = _map_like(x, height, width)
    if plus is not None:
        plus = plus.expand(y.shape).contiguous(memory_format=_LAST)
    _resize_entry(
        *map(pointer, (x, plus, y)), _sizes(x, height, width), align_corners, torch.get_num_threads()
    )
    return y


def _attract(bins: torch.Tensor, attractors: torch.Tensor, alpha: float, mean: bool) -> torch.Tensor:
    bfloat16(bins, attractors)
    bins, attractors = (part.contiguous(memory_format=_LAST) for part in (bins, attractors))
    count, height, width = attractors.shape[1:]
    y = _map_like(bins, height, width)
    arguments = map(pointer, (bins, attractors, y))
    _attract_entry(*arguments, _sizes(bins, height, width), count, alpha, mean, torch.get_num_threads())
    return y


def _expected_bin(
    bins: torch.Tensor, constants: torch.Tensor, slopes: torch.Tensor, sharpness: torch.Tensor
) -> torch.Tensor:
    bfloat16(bins)
    fits = len(constants) == bins.shape[1] and slopes.shape == sharpness.shape and len(slopes) == len(bins)
    require(fits, f"{tuple(bins.shape)} bins with slopes {tuple(slopes.shape)}")
    bins = bins.contiguous(memory_format=_LAST)
    constants, slopes, sharpness = (part.contiguous() for part in (constants, slopes, sharpness))
    y = torch.empty_like(slopes)
    arguments = map(pointer, (bins, constants, slopes, sharpness, y))
    _expected_bin_entry(*arguments, _sizes(bins, *slopes.shape[1:]), torch.get_num_threads())
    return y


def _map_like(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return torch.empty(*x.shape[:2], height, width, dtype=x.dtype, device=x.device, memory_format=_LAST)


def _sizes(x: torch.Tensor, height: int, width: int) -> ctypes.Array[ctypes.c_long]:
    B, channels, *size = x.shape
    return _SIZES(B, *size, channels, height, width)


_resize_entry = entry("resize", *[ADDRESS] * 4, FLAG, FLAG)
_attract_entry = entry("attract", *[ADDRESS] * 4, SIZE, NUMBER, FLAG, FLAG)
_expected_bin_entry = entry("expected_bin", *[ADDRESS] * 6, FLAG)
_resize_operator = operator(
    "resize(Tensor x, Tensor? plus, SymInt height, SymInt width, bool align_corners) -> Tensor",
    _resize,
    lambda x, plus, height, width, align_corners: _map_like(x, height, width),
)
_attract_operator = operator(
    "attract(Tensor bins, Tensor attractors, float alpha, bool mean) -> Tensor",
    _attract,
    lambda bins, attractors, alpha, mean: _map_like(bins, *attractors.shape[2:]),
)
_expected_bin_operator = operator(
    "expected_bin(Tensor bins, Tensor constants, Tensor slopes, Tensor sharpness) -> Tensor",
    _expected_bin,
    lambda bins, constants, slopes, sharpness: torch.empty_like(slopes),
)

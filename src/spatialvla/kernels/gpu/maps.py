"""The operators of `spatialvla.kernels.maps` on a GPU; to import this registers them.

Each program takes some pixels with all their channels, which lie together. Nothing is rounded on the way.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from spatialvla.kernels import maps as maps  # defines the operators

PIXELS = 32
"""Pixels of one program."""

_LAST = torch.channels_last


@triton.jit
def _near(place, size, to_size, ALIGNED: tl.constexpr):
    """Where a pixel lies between the `size` pixels of the smaller map: the two beside it, and the second's share."""
    if ALIGNED:
        source = place * ((size - 1) * 1.0 / tl.maximum(to_size - 1, 1))
    else:
        source = tl.maximum((place + 0.5) * (size * 1.0 / to_size) - 0.5, 0.0)
    first = tl.minimum(source.to(tl.int32), size - 1)
    return first, tl.minimum(first + 1, size - 1), source - first


@triton.jit
def _resized(x, pixel, c, inside, C, h, w, H, W, ALIGNED: tl.constexpr):
    """The maps `x` (B, h, w, C) at pixels of (B, H, W): a tile of pixels by channels, float32."""
    b, i, j = pixel // (H * W), pixel // W % H, pixel % W
    top, bottom, down = _near(i, h, H, ALIGNED)
    left, right, across = _near(j, w, W, ALIGNED)
    down, across = down[:, None], across[:, None]
    upper, lower = ((b * h + top) * w)[:, None], ((b * h + bottom) * w)[:, None]
    left, right, channel = left[:, None], right[:, None], c[None, :]
    above = (1 - across) * tl.load(x + (upper + left) * C + channel, inside, 0).to(tl.float32)
    above += across * tl.load(x + (upper + right) * C + channel, inside, 0).to(tl.float32)
    below = (1 - across) * tl.load(x + (lower + left) * C + channel, inside, 0).to(tl.float32)
    below += across * tl.load(x + (lower + right) * C + channel, inside, 0).to(tl.float32)
    return (1 - down) * above + down * below


@triton.jit
def _resize(
    x,
    plus,
    y,
    pixels,
    C,
    h,
    w,
    H,
    W,
    ALIGNED: tl.constexpr,
    ADDS: tl.constexpr,
    PIXELS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = (pixel < pixels)[:, None] & (c < C)[None, :]
    value = _resized(x, pixel, c, inside, C, h, w, H, W, ALIGNED)
    at = pixel[:, None] * C + c[None, :]
    if ADDS:
        value += tl.load(plus + at, inside, 0).to(tl.float32)
    tl.store(y + at, value.to(y.dtype.element_ty), inside)


@triton.jit
def _attract(
    bins,
    attractors,
    y,
    pixels,
    C,
    h,
    w,
    H,
    W,
    alpha,
    share,
    COUNT: tl.constexpr,
    PIXELS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    pixel, c = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.arange(0, WIDTH)
    inside = (pixel < pixels)[:, None] & (c < C)[None, :]
    value = _resized(bins, pixel, c, inside, C, h, w, H, W, True)
    moved = tl.zeros([PIXELS, WIDTH], tl.float32)
    for each in tl.static_range(COUNT):
        target = tl.load(attractors + pixel * COUNT + each, pixel < pixels, 0).to(tl.float32)
        apart = target[:, None] - value
        moved += apart / (1 + alpha * apart * apart)
    value += share * moved
    tl.store(y + pixel[:, None] * C + c[None, :], value.to(y.dtype.element_ty), inside)


@triton.jit
def _expected_bin(
    bins, constants, slopes, sharpness, y, pixels, C, h, w, H, W, PIXELS: tl.constexpr, WIDTH: tl.constexpr
):
    pixel, c = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.arange(0, WIDTH)
    inside = (pixel < pixels)[:, None] & (c < C)[None, :]
    value = _resized(bins, pixel, c, inside, C, h, w, H, W, True)
    slope = tl.load(slopes + pixel, pixel < pixels, 0)[:, None]
    sharp = tl.load(sharpness + pixel, pixel < pixels, 0)[:, None]
    scores = (tl.load(constants + c, c < C, 0)[None, :] + c[None, :] * slope) * sharp
    scores = tl.where((c < C)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    mean = tl.sum(weights * value, axis=1) / tl.sum(weights, axis=1)
    tl.store(y + pixel, mean, pixel < pixels)


def resize(
    x: torch.Tensor, plus: torch.Tensor | None, height: int, width: int, align_corners: bool
) -> torch.Tensor:
    """As `spatialvla.kernels.maps.resize`."""
    B, C, h, w = x.shape
    y = _map_like(x, height, width)
    x, pixels, channels = x.contiguous(memory_format=_LAST), B * height * width, min(64, _whole(C))
    plus = None if plus is None else plus.expand(y.shape).contiguous(memory_format=_LAST)
    _resize[triton.cdiv(pixels, PIXELS), triton.cdiv(C, channels)](
        x,
        x if plus is None else plus,
        y,
        pixels,
        C,
        h,
        w,
        height,
        width,
        ALIGNED=align_corners,
        ADDS=plus is not None,
        PIXELS=PIXELS,
        WIDTH=channels,
    )
    return y


def attract(bins: torch.Tensor, attractors: torch.Tensor, alpha: float, mean: bool) -> torch.Tensor:
    """As `spatialvla.kernels.maps.attract`."""
    (B, C, h, w), (count, height, width) = bins.shape, attractors.shape[1:]
    y = _map_like(bins, height, width)
    bins, attractors = (part.contiguous(memory_format=_LAST) for part in (bins, attractors))
    pixels, share = B * height * width, 1 / count if mean else 1.0
    sizes = (pixels, C, h, w, height, width)
    _attract[triton.cdiv(pixels, PIXELS),](
        bins, attractors, y, *sizes, alpha, share, COUNT=count, PIXELS=PIXELS, WIDTH=_whole(C)
    )
    return y


def expected_bin(
    bins: torch.Tensor, constants: torch.Tensor, slopes: torch.Tensor, sharpness: torch.Tensor
) -> torch.Tensor:
    """As `spatialvla.kernels.maps.expected_bin`."""
    (_, C, h, w), (B, height, width) = bins.shape, slopes.shape
    bins = bins.contiguous(memory_format=_LAST)
    constants, slopes, sharpness = (part.contiguous() for part in (constants, slopes, sharpness))
    y, pixels = torch.empty_like(slopes), B * height * width
    sizes = (pixels, C, h, w, height, width)
    _expected_bin[triton.cdiv(pixels, PIXELS),](
        bins, constants, slopes, sharpness, y, *sizes, PIXELS=PIXELS, WIDTH=_whole(C)
    )
    return y


def _map_like(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return torch.empty(*x.shape[:2], height, width, dtype=x.dtype, device=x.device, memory_format=_LAST)


def _whole(channels: int) -> int:
    return max(16, int(triton.next_power_of_2(channels)))


for _name, _function in (("resize", resize), ("attract", attract), ("expected_bin", expected_bin)):
    torch.library.impl(f"spatialvla::{_name}", "CUDA", _function)

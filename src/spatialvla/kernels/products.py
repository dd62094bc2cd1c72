"""Linear layers of a CPU as operators: weights packed once, in bfloat16 or in 8 bits, and products with them.

A decode step multiplies one row, or a few, with every weight of the decoder; prefill and vision multiply
hundreds. The same packed weight serves both.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from spatialvla.kernels.library import ADDRESS, FLAG, SIZE, bfloat16, entry, operator, pointer, require

PANEL = 64
"""Outputs that lie together, as in products.cpp."""

GROUP = 128
"""Neighboring inputs that share a scale in 8 bits, as in products.cpp."""


TILE = 32
"""Neighboring inputs in bfloat16 that a matrix unit takes at once, as in tile_products.h."""


def pack_bf16(weight: torch.Tensor) -> torch.Tensor:
    """(N, K) bfloat16, K even -> (panels, width / 2, PANEL, 2); width is K in whole tiles."""
    N, K = weight.shape
    require(K % 2 == 0, f"a weight for {K} inputs, which are not even")
    padded = F.pad(weight, (0, -K % TILE, 0, -N % PANEL))
    return padded.view(-1, PANEL, padded.shape[1] // 2, 2).transpose(1, 2).contiguous()


def pack_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) -> 8-bit numbers plus 128 (panels, width / 4, PANEL, 4) and scales (panels, groups, PANEL)."""
    N, K = weight.shape
    padded = F.pad(weight.float(), (0, -K % GROUP, 0, -N % PANEL))
    groups = padded.view(len(padded), -1, GROUP)
    scale = groups.abs().amax(dim=-1).clamp(min=1e-12) / 127
    numbers = ((groups / scale[..., None]).round() + 128).to(torch.uint8)
    packed = numbers.view(-1, PANEL, padded.shape[1] // 4, 4).transpose(1, 2).contiguous()
    return packed, scale.view(-1, PANEL, scale.shape[1]).transpose(1, 2).contiguous()


def bf16_product(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, outputs: int
) -> torch.Tensor:
    """(…, K) times a packed weight (N, K) transposed, plus a float32 bias (N,): (…, N). All else is bfloat16.

    outputs: N.
    """
    return _bf16_product_operator(x, packed, bias, outputs)


def int8_product(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    outputs: int,
    bits: int,
) -> torch.Tensor:
    """The same for a weight in 8 bits; x is bfloat16 or float32.

    bits: 8 or 16, of x, with a scale for each row and group. 16 are finer than bfloat16 and take twice as
    long.
    """
    return _int8_product_operator(x, packed, scales, bias, outputs, bits)


def _bf16_product(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, outputs: int
) -> torch.Tensor:
    bfloat16(x, packed)
    x = x.contiguous()
    K = x.shape[-1]
    _check_sizes(outputs, len(packed), K + -K % TILE, 2 * packed.shape[1], bias)
    y = x.new_empty(*x.shape[:-1], outputs)
    arguments = map(pointer, (x, packed, bias, y))
    _bf16_entry(*arguments, x.numel() // K, outputs, K, torch.get_num_threads())
    return y


def _int8_product(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    bias: torch.Tensor | None,
    outputs: int,
    bits: int,
) -> torch.Tensor:
    x = x.contiguous()
    K, wide = x.shape[-1], int(x.dtype == torch.float32)
    if not wide:
        bfloat16(x)
    _check_sizes(outputs, len(packed), K + -K % GROUP, 4 * packed.shape[1], bias)
    y = x.new_empty(*x.shape[:-1], outputs)
    arguments = map(pointer, (x, packed, scales, bias, y))
    _int8_entry(*arguments, x.numel() // K, outputs, K, bits // 8, wide, torch.get_num_threads())
    return y


def _check_sizes(outputs: int, panels: int, K: int, packed_K: int, bias: torch.Tensor | None) -> None:
    fits = packed_K == K and panels == -(-outputs // PANEL) and (bias is None or len(bias) == outputs)
    require(
        fits, f"{K} inputs and {outputs} outputs, with {packed_K} inputs in {panels} panels of the weight"
    )


_bf16_entry = entry("bf16_product", *[ADDRESS] * 4, *[SIZE] * 3, FLAG)
_int8_entry = entry("int8_product", *[ADDRESS] * 5, *[SIZE] * 4, FLAG, FLAG)
_bf16_product_operator = operator(
    "bf16_product(Tensor x, Tensor packed, Tensor? bias, SymInt outputs) -> Tensor",
    _bf16_product,
    lambda x, packed, bias, outputs: x.new_empty(*x.shape[:-1], outputs),
)
_int8_product_operator = operator(
    "int8_product(Tensor x, Tensor packed, Tensor scales, Tensor? bias, SymInt outputs, int bits) -> Tensor",
    _int8_product,
    lambda x, packed, scales, bias, outputs, bits: x.new_empty(*x.shape[:-1], outputs),
)

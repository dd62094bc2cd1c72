"""A residual sum and the norms around it, for few rows on a GPU in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from spatialvla.kernels.gpu.launches import after_the_last, let_the_next_begin, options


@triton.jit
def _normed(wide, weight, eps, D: tl.constexpr, kind: tl.constexpr):
    return (wide * tl.rsqrt(tl.sum(wide * wide) / D + eps) * (1.0 + weight)).to(kind)


@triton.jit
def _add_norm(
    x,
    added,
    added_weight,
    weight,
    total,
    out,
    eps,
    D: tl.constexpr,
    ADDS: tl.constexpr,
    WIDTH: tl.constexpr,
    EARLY: tl.constexpr,
):
    let_the_next_begin(EARLY)
    row, d = tl.program_id(0), tl.arange(0, WIDTH)
    inside = d < D
    own = tl.load(weight + d, inside, 0).to(tl.float32)
    kind: tl.constexpr = out.dtype.element_ty
    if ADDS:
        other = tl.load(added_weight + d, inside, 0).to(tl.float32)
    after_the_last(EARLY)
    wide = tl.load(x + row * D + d, inside, 0).to(tl.float32)
    if ADDS:
        mixed = tl.load(added + row * D + d, inside, 0).to(tl.float32)
        wide = (wide + _normed(mixed, other, eps, D, kind).to(tl.float32)).to(kind)
        tl.store(total + row * D + d, wide, inside)
        wide = wide.to(tl.float32)
    tl.store(out + row * D + d, _normed(wide, own, eps, D, kind), inside)


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Rows (R, D), as `RMSNorm` with this weight (D,) norms them."""
    return _launch(x, None, weight, weight, eps)[1]


def add_norm(
    x: torch.Tensor, added: torch.Tensor, added_weight: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + norm(added), and the norm of that; all (R, D). Each norm has a weight (D,)."""
    return _launch(x, added, added_weight, weight, eps)


def _launch(
    x: torch.Tensor,
    added: torch.Tensor | None,
    added_weight: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, size = x.shape
    total, out = (x if added is None else torch.empty_like(x)), torch.empty_like(x)
    _add_norm[rows,](
        x,
        x if added is None else added,
        added_weight,
        weight,
        total,
        out,
        eps,
        D=size,
        ADDS=added is not None,
        WIDTH=triton.next_power_of_2(size),
        num_warps=8,
        **options(rows),
    )
    return total, out

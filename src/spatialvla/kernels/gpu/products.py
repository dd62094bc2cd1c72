"""Products of few rows with large weights on a GPU, which wait for memory alone.

Each program streams the weights of some outputs past all rows. Weights in 8 bits are widened on the way.
One row is multiplied and summed up in the vector units, several go through the matrix units. How much a
program takes at a time is tried out once for each shape.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from spatialvla.kernels.gpu.launches import INTERPRETED, after_the_last, let_the_next_begin, options

MOST_ROWS = 16
"""What fits one tile of the matrix units."""


def _tiling(outputs: int, inputs: int, warps: int, stages: int, dot: bool) -> triton.Config:
    tile = {"BLOCK_N": outputs, "BLOCK_K": inputs, "DOT": dot}
    return triton.Config(tile, num_warps=warps, num_stages=stages)


TILINGS = [
    _tiling(16, 256, 4, 4, True),
    _tiling(32, 128, 4, 6, True),
    _tiling(64, 128, 4, 5, True),
    _tiling(4, 512, 4, 1, False),
    _tiling(8, 512, 4, 1, False),
    _tiling(16, 256, 4, 1, False),
]


def _fitting(tilings: list[triton.Config], arguments: dict[str, Any], **options: Any) -> list[triton.Config]:
    """Several rows need the matrix units."""
    one = arguments["rows"] == 1
    return [tiling for tiling in tilings if one or tiling.kwargs["DOT"]]


@triton.autotune(
    TILINGS[:1] if INTERPRETED else TILINGS,
    key=["N", "K", "ROWS", "GATED"],
    prune_configs_by={"early_config_prune": _fitting},
    cache_results=True,
)
@triton.heuristics({"EVEN": lambda a: a["N"] % a["BLOCK_N"] == 0 and a["K"] % a["BLOCK_K"] == 0})
@triton.jit
def _product(
    x,
    weight,
    scales,
    out,
    rows,
    N: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    GATED: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DOT: tl.constexpr,
    EVEN: tl.constexpr,
    EARLY: tl.constexpr,
):
    let_the_next_begin(EARLY)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    TILE: tl.constexpr = 16
    m = tl.arange(0, TILE)
    at = weight + n[:, None].to(tl.int64) * K
    if DOT:
        first = tl.zeros([BLOCK_N, TILE], tl.float32)
        second = tl.zeros([BLOCK_N, TILE], tl.float32)
    else:
        first = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        second = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    after_the_last(EARLY)
    for begin in tl.range(0, K, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        if EVEN:
            w = tl.load(at + k[None, :], eviction_policy="evict_first")
        else:
            inside = (n < N)[:, None] & (k < K)[None, :]
            w = tl.load(at + k[None, :], inside, 0.0, eviction_policy="evict_first")
        if GATED:
            if EVEN:
                v = tl.load(at + N * K + k[None, :], eviction_policy="evict_first")
            else:
                v = tl.load(at + N * K + k[None, :], inside, 0.0, eviction_policy="evict_first")
        if DOT:
            across = tl.load(x + m[None, :] * K + k[:, None], (m < rows)[None, :] & (k < K)[:, None], 0)
            first = tl.dot(w.to(across.dtype), across, first)
            if GATED:
                second = tl.dot(v.to(across.dtype), across, second)
        else:
            along = tl.load(x + k, k < K, 0).to(tl.float32)[None, :]
            first += w.to(tl.float32) * along
            if GATED:
                second += v.to(tl.float32) * along
    if not DOT:
        first = tl.sum(first, axis=1, keep_dims=True)
        second = tl.sum(second, axis=1, keep_dims=True)
    kind = out.dtype.element_ty
    if SCALED:
        first *= tl.load(scales + n, n < N, 0)[:, None]
        if GATED:
            second *= tl.load(scales + N + n, n < N, 0)[:, None]
    if GATED:
        # Rounded where a product of its own would be.
        gate = first.to(kind).to(tl.float32)
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        gate = (gate * tl.sigmoid(2 * inner)).to(kind).to(tl.float32)
        first = gate * second.to(kind).to(tl.float32)
    if DOT:
        tl.store(out + m[None, :] * N + n[:, None], first.to(kind), (m < rows)[None, :] & (n < N)[:, None])
    else:
        tl.store(out + n[:, None], first.to(kind), (n < N)[:, None])


def product(
    x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor | None = None, gated: bool = False
) -> torch.Tensor:
    """x (rows, K) times weight (N, K) -> (rows, N), in x's dtype; up to `MOST_ROWS` rows.

    scales: (N,) float32, of the rows of a weight in int8 or float8_e4m3fn. gated: the first half of the
    outputs is a gate for the other: GELU(tanh) of one times the other, (rows, N / 2).
    """
    rows, inputs = x.shape
    outputs = len(weight) // 2 if gated else len(weight)
    out = x.new_empty(rows, outputs)
    _product[lambda tile: (triton.cdiv(outputs, tile["BLOCK_N"]),)](
        x,
        weight,
        weight if scales is None else scales,
        out,
        rows,
        N=outputs,
        K=inputs,
        ROWS=MOST_ROWS if rows > 1 else 1,
        GATED=gated,
        SCALED=scales is not None,
        **options(rows),
    )
    return out

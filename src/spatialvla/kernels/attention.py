"""Attention of a CPU as one operator, with soft-capped scores, grouped queries and an additive bias."""

from __future__ import annotations

import ctypes

import torch

from spatialvla.kernels.library import ADDRESS, FLAG, NUMBER, bfloat16, entry, operator, pointer, require

_SHAPE = ctypes.c_long * 18


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float | None = None,
) -> torch.Tensor:
    """softmax(softcap(q kᵀ · scale) + bias) v, (B, T, N * H) contiguous as the output projection takes it.

    q: (B, N, T, H) bfloat16. k and v: (B, K, S, H) bfloat16; query head n uses key head n // (N / K). The
    last dimension is contiguous, the others have any strides. bias: bfloat16 or float32, broadcastable to (B,
    N, T, S); what it hides with the lowest number of its dtype weighs exactly 0. softcap: scores become
    tanh(score / softcap) * softcap. Scores, sums and exponentials are float32; weights are
    rounded to bfloat16 before they meet the values.
    """
    return _attention_operator(q, k, v, bias, scale, softcap)


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float | None = None,
) -> torch.Tensor:
    bfloat16(q, k, v)
    B, N, T, H = q.shape
    K, S = k.shape[1:3]
    fits = k.shape == v.shape == (B, K, S, H) and N % K == 0
    require(fits, f"queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)}")
    q, k, v = (part if part.stride(-1) == 1 else part.contiguous() for part in (q, k, v))
    strides_of_bias: tuple[int, ...] = (0, 0, 0)
    if bias is not None:
        if bias.shape[-1] != S or bias.stride(-1) != 1:
            bias = bias.expand(*bias.shape[:-1], S).contiguous()
        if bias.shape != (B, N, T, S):
            bias = bias.expand(B, N, T, S)
        strides_of_bias = bias.stride()[:3]
    y = q.new_empty(B, T, N * H)
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *strides_of_bias)
    shape = _SHAPE(B, N, K, T, S, H, *strides)
    wide = bias is not None and bias.dtype == torch.float32
    arguments = map(pointer, (q, k, v, bias, y))
    _attention_entry(*arguments, shape, scale, softcap or 0.0, wide, torch.get_num_threads())
    return y


_attention_entry = entry("attention", *[ADDRESS] * 6, NUMBER, NUMBER, FLAG, FLAG)
_attention_operator = operator(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? bias, float scale, float? softcap=None) -> Tensor",
    _attention,
    lambda q, k, v, *others: q.new_empty(q.shape[0], q.shape[2], q.shape[1] * q.shape[3]),
)

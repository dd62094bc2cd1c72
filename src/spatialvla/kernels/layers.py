"""What layers do between their products as operators of a CPU: norms, rotary positions, activations."""

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

_STRIDES = ctypes.c_long * 3


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """(…, D) bfloat16 -> the same, of root mean square 1, times 1 + weight (D,)."""
    return _rms_norm_operator(x, weight, eps)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """The tanh approximation of GELU, bfloat16 of any shape."""
    return _gelu_tanh_operator(x)


def geglu(gate_up: torch.Tensor) -> torch.Tensor:
    """(…, 2 F) bfloat16 -> (…, F): the first half's GELU, by its tanh approximation, times the second."""
    return _geglu_operator(gate_up)


def rotate(x_BNTH: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding, bfloat16; the last dimension of x is contiguous. cos, sin: (B, 1, T, H)."""
    return _rotate_operator(x_BNTH, cos, sin)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    bfloat16(x, weight)
    x = x.contiguous()
    y, size = torch.empty_like(x), x.shape[-1]
    require(weight.shape == (size,), f"a norm of {len(weight)} numbers for {size}")
    arguments = map(pointer, (x, weight, y))
    _rms_norm_entry(*arguments, x.numel() // size, size, eps, torch.get_num_threads())
    return y


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    bfloat16(x)
    x = x.contiguous()
    y = torch.empty_like(x)
    _gelu_tanh_entry(*map(pointer, (x, y)), x.numel(), torch.get_num_threads())
    return y


def _geglu(gate_up: torch.Tensor) -> torch.Tensor:
    bfloat16(gate_up)
    gate_up = gate_up.contiguous()
    size = gate_up.shape[-1] // 2
    y = gate_up.new_empty(*gate_up.shape[:-1], size)
    arguments = map(pointer, (gate_up, y))
    _geglu_entry(*arguments, y.numel() // size, size, torch.get_num_threads())
    return y


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    bfloat16(x, cos, sin)
    B, _, T, H = x.shape
    require(cos.shape == sin.shape == (B, 1, T, H) and x.stride(-1) == 1, f"angles {tuple(cos.shape)}")
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    cos, sin = cos.contiguous(), sin.contiguous()
    arguments = map(pointer, (x, cos, sin, y))
    _rotate_entry(*arguments, *x.shape, _STRIDES(*x.stride()[:3]), torch.get_num_threads())
    return y


_rms_norm_entry = entry("rms_norm", *[ADDRESS] * 3, SIZE, SIZE, NUMBER, FLAG)
_gelu_tanh_entry = entry("gelu_tanh", *[ADDRESS] * 2, SIZE, FLAG)
_geglu_entry = entry("geglu", *[ADDRESS] * 2, SIZE, SIZE, FLAG)
_rotate_entry = entry("rotate", *[ADDRESS] * 4, *[SIZE] * 4, ADDRESS, FLAG)
_rms_norm_operator = operator(
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
    _rms_norm,
    lambda x, weight, eps: x.new_empty(x.shape),
)
_gelu_tanh_operator = operator("gelu_tanh(Tensor x) -> Tensor", _gelu_tanh, lambda x: x.new_empty(x.shape))
_geglu_operator = operator(
    "geglu(Tensor gate_up) -> Tensor",
    _geglu,
    lambda gate_up: gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2),
)
_rotate_operator = operator(
    "rotate(Tensor x, Tensor cos, Tensor sin) -> Tensor", _rotate, lambda x, cos, sin: x.new_empty(x.shape)
)

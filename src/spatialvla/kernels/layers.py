"""What layers do between their products as operators of a CPU: norms, rotary positions, activations."""

from __future__ import annotations

import ctypes

import torch

from spatialvla.kernels.library import (
    ADDRESS,
    FLAG,
    NUMBER,
    OPERATORS,
    SIZE,
    bfloat16,
    entry,
    pointer,
    require,
)

_STRIDES = ctypes.c_long * 3


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """(…, D) bfloat16 -> the same, of root mean square 1, times 1 + weight (D,)."""
    return torch.ops.spatialvla.rms_norm(x, weight, eps)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """The tanh approximation of GELU, bfloat16 of any shape."""
    return torch.ops.spatialvla.gelu_tanh(x)


def geglu(gate_up: torch.Tensor) -> torch.Tensor:
    """(…, 2 F) bfloat16 -> (…, F): the GELU, by its tanh approximation, of the first half times the second."""
    return torch.ops.spatialvla.geglu(gate_up)


def rotate(x_BNTH: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding, bfloat16; the last dimension of x is contiguous. cos, sin: (B, 1, T, H)."""
    return torch.ops.spatialvla.rotate(x_BNTH, cos, sin)


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
OPERATORS.define("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor")
OPERATORS.define("gelu_tanh(Tensor x) -> Tensor")
OPERATORS.define("geglu(Tensor gate_up) -> Tensor")
OPERATORS.define("rotate(Tensor x, Tensor cos, Tensor sin) -> Tensor")
OPERATORS.impl("rms_norm", _rms_norm, "CPU")
OPERATORS.impl("gelu_tanh", _gelu_tanh, "CPU")
OPERATORS.impl("geglu", _geglu, "CPU")
OPERATORS.impl("rotate", _rotate, "CPU")


@torch.library.register_fake("spatialvla::rms_norm", lib=OPERATORS)
def _(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("spatialvla::gelu_tanh", lib=OPERATORS)
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("spatialvla::geglu", lib=OPERATORS)
def _(gate_up: torch.Tensor) -> torch.Tensor:
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


@torch.library.register_fake("spatialvla::rotate", lib=OPERATORS)
def _(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)

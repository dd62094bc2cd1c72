"""All layers of a Gemma 2 decoder in one call of the kernels, for a CPU: new tokens in, hidden states out."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spatialvla.kernels.library import ADDRESS, FLAG, SIZE, bfloat16, entry, require


@dataclass(frozen=True)
class PackedWeight:
    """A weight (N, K) packed for `bf16_product`, `int8_product` or `int4_product`.

    bits: of the weight, 16, 8 or 4. activation_bits: of what it is multiplied with, 8 or 16. scales: in 8 bits.
    """

    packed: torch.Tensor
    outputs: int
    inputs: int
    bits: int = 16
    activation_bits: int = 16
    scales: torch.Tensor | None = None


@dataclass(frozen=True)
class LayerWeights:
    """A decoder layer: its products, and its norms (D,) in the order in which they are applied."""

    qkv: PackedWeight
    o: PackedWeight
    gate_up: PackedWeight
    down: PackedWeight
    norms: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

    def products(self) -> tuple[PackedWeight, ...]:
        """In the order in which they are computed."""
        return self.qkv, self.o, self.gate_up, self.down

    def tensors(self) -> list[torch.Tensor]:
        """All that the kernels read."""
        parts = [part for weight in self.products() for part in (weight.packed, weight.scales)]
        return [*(part for part in parts if part is not None), *self.norms]


@dataclass(frozen=True)
class DecoderSizes:
    """What all layers have in common. softcap: of attention scores; None for none."""

    heads: int
    key_heads: int
    head: int
    eps: float
    scale: float
    softcap: float | None


class _Linear(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_long) for name in ("outputs", "inputs", "bits", "planes")),
        ("weight", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Linear) for name in ("qkv", "o", "gate_up", "down")),
        ("norms", ctypes.c_void_p * 4),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "bias")),
    ]


class _Pass(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_long)
            for name in (
                *("batch", "tokens", "slots", "size", "heads", "key_heads", "head", "inner"),
                "wanted",
            )
        ),
        *((name, ctypes.c_void_p) for name in ("cos", "sin", "slot")),
        *((name, ctypes.c_double) for name in ("eps", "scale", "softcap")),
    ]


class Decoder:
    """The layers of a decoder, ready to be called. The weights stay where they are: no copy is made."""

    def __init__(self, layers: Sequence[LayerWeights], last_norm: torch.Tensor, sizes: DecoderSizes) -> None:
        self.layers, self.last_norm, self.sizes = list(layers), last_norm, sizes
        for layer in layers:
            bfloat16(*layer.norms, last_norm)
        self._addresses: list[int] = []
        self._table = b""

    def __call__(
        self,
        x_BTD: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        biases: Sequence[torch.Tensor],
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        slots_T: torch.Tensor,
        wanted: int | None = None,
    ) -> torch.Tensor:
        """(B, wanted, D): normalized hidden states of the last `wanted` of T tokens, or of all. All is bfloat16.

        rotary: cosine and sine (B, 1, T, H). biases: (B, 1, T, S) of each layer, 0 or very low. keys, values:
        (B, K, S, H) of each layer, to which those of the new tokens are written at `slots_T` (T,) int64.
        """
        sizes, (B, T, D), S = self.sizes, x_BTD.shape, keys[0].shape[2]
        cos, sin = (part.contiguous() for part in rotary)
        slots_T = slots_T.contiguous()
        bfloat16(x_BTD, cos, sin, *biases, *keys, *values)
        cache = (B, sizes.key_heads, S, sizes.head)
        fits = all(part.shape == cache and part.is_contiguous() for part in (*keys, *values))
        fits = fits and all(bias.shape == (B, 1, T, S) and bias.is_contiguous() for bias in biases)
        fits = fits and cos.shape == sin.shape == (B, 1, T, sizes.head) and self.layers[0].qkv.inputs == D
        fits = fits and slots_T.shape == (T,) and slots_T.dtype == torch.long
        fits = fits and bool(((slots_T >= 0) & (slots_T < S)).all())
        require(fits, f"tokens {tuple(x_BTD.shape)} and a cache of {tuple(keys[0].shape)}")
        table = self._filled(biases, keys, values)
        wanted = T if wanted is None else wanted
        numbers = (B, T, S, D, sizes.heads, sizes.key_heads, sizes.head, self.layers[0].down.inputs, wanted)
        addresses = (cos.data_ptr(), sin.data_ptr(), slots_T.data_ptr())
        given = _Pass(*numbers, *addresses, sizes.eps, sizes.scale, sizes.softcap or 0.0)
        x = x_BTD.clone(memory_format=torch.contiguous_format)
        y = x_BTD.new_empty(B, wanted, D)
        _decoder_entry(
            *(x.data_ptr(), table, len(self.layers), self.last_norm.data_ptr()),
            *(ctypes.byref(given), y.data_ptr(), torch.get_num_threads()),
        )
        return y

    def _filled(
        self, biases: Sequence[torch.Tensor], keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]
    ) -> ctypes.Array[_Layer]:
        """The table of layers for one call."""
        weights = [part for layer in self.layers for part in layer.tensors()]
        addresses = [part.data_ptr() for part in weights]
        if addresses != self._addresses:  # as after a copy of the model
            self._table = b"".join(bytes(_layer(layer)) for layer in self.layers)
            self._addresses = addresses
        table = (_Layer * len(self.layers)).from_buffer_copy(self._table)
        for row, its_keys, its_values, bias in zip(table, keys, values, biases, strict=True):
            row.keys, row.values, row.bias = its_keys.data_ptr(), its_values.data_ptr(), bias.data_ptr()
        return table


def _layer(layer: LayerWeights) -> _Layer:
    linears = [_linear(part) for part in layer.products()]
    return _Layer(*linears, tuple(norm.data_ptr() for norm in layer.norms))


def _linear(weight: PackedWeight) -> _Linear:
    scales = None if weight.scales is None else weight.scales.data_ptr()
    planes = weight.activation_bits // 8
    return _Linear(weight.outputs, weight.inputs, weight.bits, planes, weight.packed.data_ptr(), scales)


_decoder_entry = entry("decoder", ADDRESS, ADDRESS, SIZE, *[ADDRESS] * 3, FLAG)

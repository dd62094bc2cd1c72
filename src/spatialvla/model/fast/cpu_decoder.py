"""The fused decoder on a CPU with the kernels: all layers in one call, over a KV cache."""

from __future__ import annotations

import sys
from typing import cast

import torch
from torch import nn

from spatialvla.kernels.decoder import Decoder, DecoderSizes, LayerWeights
from spatialvla.model.fast.decoder import FusedDecoder, KernelAttention, KernelMLP
from spatialvla.model.fast.linear import FEW_ROWS, PackedFourBitLinear, PackedInt8Linear, PackedLinear
from spatialvla.model.gemma2 import Gemma2Decoder, KVCache, Layer, Wanted

Packed = PackedLinear | PackedInt8Linear | PackedFourBitLinear


class CPUDecoder(FusedDecoder):
    """A decoder whose layers are fused; where they cannot go in one call they run one by one, to the same bits."""

    def __init__(self, decoder: Gemma2Decoder) -> None:
        """Takes the parts of `decoder` over, after `fuse_layer` and `replace_norms`; each product is a `Packed`."""
        super().__init__(decoder)
        parts = [part for layer in self.layers for part in layer.modules()]
        self.most_rows = FEW_ROWS if any(getattr(part, "dense", None) for part in parts) else sys.maxsize
        attention = cast(KernelAttention, decoder.layers[0].self_attn)
        sizes = DecoderSizes(
            attention.heads,
            attention.kv_heads,
            attention.head_dim,
            self.config.rms_norm_eps,
            attention.scale,
            attention.softcap,
        )
        weights = [_weights(cast(Layer, layer)) for layer in self.layers]
        self.decoder = Decoder(weights, cast(torch.Tensor, self.norm.weight), sizes)

    def run_layers(
        self,
        x_BTD: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        near_B1TS: torch.Tensor,
        full_B1TS: torch.Tensor,
        cache: KVCache | None,
        slots_T: torch.Tensor,
        wanted: Wanted | None,
    ) -> torch.Tensor:
        """As in `Gemma2Decoder`."""
        rows = x_BTD.shape[0] * x_BTD.shape[1]
        if (
            cache is None
            or rows > self.most_rows
            or torch.compiler.is_compiling()
            or isinstance(wanted, torch.Tensor)
        ):
            return super().run_layers(x_BTD, rotary, near_B1TS, full_B1TS, cache, slots_T, wanted)
        biases = [near_B1TS if cast(Layer, layer).slides else full_B1TS for layer in self.layers]
        return self.decoder(x_BTD, rotary, biases, cache.keys, cache.values, slots_T, wanted)


def fits_one_call(decoder: Gemma2Decoder) -> bool:
    """Whether all products of the layers have packed weights."""
    layers = [cast(Layer, layer) for layer in decoder.layers]
    return all(isinstance(part, Packed) for layer in layers for part in _products(layer))


def _products(layer: Layer) -> tuple[nn.Module, ...]:
    attention, mlp = cast(KernelAttention, layer.self_attn), cast(KernelMLP, layer.mlp)
    return attention.qkv_proj, attention.o_proj, mlp.gate_up_proj, mlp.down_proj


def _weights(layer: Layer) -> LayerWeights:
    norms = (
        layer.input_layernorm,
        layer.post_attention_layernorm,
        layer.pre_feedforward_layernorm,
        layer.post_feedforward_layernorm,
    )
    qkv, o, gate_up, down = (cast(Packed, part).weight_for_kernels() for part in _products(layer))
    first, second, third, fourth = (cast(torch.Tensor, norm.weight) for norm in norms)
    return LayerWeights(qkv, o, gate_up, down, (first, second, third, fourth))

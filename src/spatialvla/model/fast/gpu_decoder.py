"""The fused decoder on a GPU: few new tokens go through our kernels, seven launches a layer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.nn import functional as F

from spatialvla.kernels.gpu.attention import CacheAttention
from spatialvla.kernels.gpu.norms import add_norm, norm
from spatialvla.kernels.gpu.products import MOST_ROWS, product
from spatialvla.model.fast.decoder import FusedAttention, FusedDecoder, FusedMLP
from spatialvla.model.fast.linear import DenseLinear, ScaledLinear
from spatialvla.model.gemma2 import Gemma2Decoder, KVCache, Layer, RMSNorm, Wanted, only


class GPUDecoder(FusedDecoder):
    """A decoder whose layers are fused; passes of more than `MOST_ROWS` tokens go through these as they are."""

    def __init__(self, decoder: Gemma2Decoder) -> None:
        """Takes the parts of `decoder` over, after `fuse_layer`."""
        super().__init__(decoder)
        attention = cast(FusedAttention, decoder.layers[0].self_attn)
        # One for all layers, which run one after the other.
        self.attend = CacheAttention(
            attention.heads, attention.kv_heads, attention.head_dim, attention.scale, attention.softcap
        )

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
        """As in `Gemma2Decoder`; few tokens have to stand in slots that follow each other."""
        B, T, D = x_BTD.shape
        if cache is None or B * T > MOST_ROWS:
            return super().run_layers(x_BTD, rotary, near_B1TS, full_B1TS, cache, slots_T, wanted)
        layers = [cast(Layer, layer) for layer in self.layers]
        after = [layer.input_layernorm for layer in layers[1:]] + [self.norm]
        x = x_BTD.reshape(B * T, D)
        normed = norm(x, layers[0].input_layernorm.weight, self.config.rms_norm_eps)
        for index, layer in enumerate(layers):
            attention, mlp, kept = (
                cast(FusedAttention, layer.self_attn),
                cast(FusedMLP, layer.mlp),
                cache.layer(index),
            )
            bias = near_B1TS if layer.slides else full_B1TS
            qkv = _product(normed, attention.qkv_proj).view(B, T, -1)
            mixed = self.attend(qkv, rotary, bias, kept.keys, kept.values, slots_T).view(B * T, -1)
            x, normed = self._add_norm(
                x,
                _product(mixed, attention.o_proj),
                layer.post_attention_layernorm,
                layer.pre_feedforward_layernorm,
            )
            inner = _product(normed, mlp.gate_up_proj, gated=True)
            x, normed = self._add_norm(
                x, _product(inner, mlp.down_proj), layer.post_feedforward_layernorm, after[index]
            )
        return only(normed.view(B, T, D), wanted)

    def _add_norm(
        self, x: torch.Tensor, added: torch.Tensor, of_added: RMSNorm, of_sum: RMSNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return add_norm(x, added, of_added.weight, of_sum.weight, self.config.rms_norm_eps)


def _product(x: torch.Tensor, layer: Any, gated: bool = False) -> torch.Tensor:
    if isinstance(layer, DenseLinear | ScaledLinear):
        return product(x, layer.weight, getattr(layer, "scale", None), gated)
    outputs = cast(torch.Tensor, layer(x))  # of weights for which there is no kernel here
    if not gated:
        return outputs
    gate, up = outputs.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up

"""The decoder rearranged for inference: parallel projections in one, a head that may know actions alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.kernels import layers
from spatialvla.kernels.attention import attention
from spatialvla.model.config import Gemma2Config
from spatialvla.model.fast.linear import WeightFormat, four_bit_linear, linear
from spatialvla.model.gemma2 import (
    Gemma2Decoder,
    Gemma2ForCausalLM,
    GroupedQueryAttention,
    Head,
    Layer,
    RMSNorm,
)
from spatialvla.model.quantization.linear import FourBitLinear
from spatialvla.model.quantization.linear import joined as joined_in_four_bits


class FusedDecoder(Gemma2Decoder):
    """A decoder that takes over the parts of another one whose layers are fused."""

    def __init__(self, decoder: Gemma2Decoder) -> None:
        nn.Module.__init__(self)
        self.config = decoder.config
        self.embed_tokens, self.layers, self.norm = decoder.embed_tokens, decoder.layers, decoder.norm


class FusedAttention(GroupedQueryAttention):
    """Attention that reads queries, keys and values off one product."""

    def __init__(self, config: Gemma2Config, qkv_proj: nn.Module, o_proj: nn.Module) -> None:
        super().__init__(config)
        self.qkv_proj = qkv_proj
        self.o_proj = o_proj

    def project(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, T, D) -> q (B, heads, T, head_dim), k and v (B, kv_heads, T, head_dim)."""
        B, T, _ = x_BTD.shape
        heads = self.qkv_proj(x_BTD).view(B, T, -1, self.head_dim).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        return q, k, v


class FusedMLP(nn.Module):
    """GeGLU that reads gate and up off one product."""

    def __init__(self, gate_up_proj: nn.Module, down_proj: nn.Module) -> None:
        super().__init__()
        self.gate_up_proj = gate_up_proj
        self.down_proj = down_proj

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, D)"""
        gate, up = self.gate_up_proj(x_BTD).chunk(2, dim=-1)
        return cast(torch.Tensor, self.down_proj(F.gelu(gate, approximate="tanh") * up))


class KernelAttention(FusedAttention):
    """The same for bfloat16 on a CPU with the kernels."""

    rotate = staticmethod(layers.rotate)

    def attend(
        self, q_BNTH: torch.Tensor, k_BKSH: torch.Tensor, v_BKSH: torch.Tensor, bias_B1TS: torch.Tensor
    ) -> torch.Tensor:
        """As in `GroupedQueryAttention`, in one kernel."""
        return attention(q_BNTH, k_BKSH, v_BKSH, bias_B1TS, self.scale, self.softcap)


class KernelMLP(FusedMLP):
    """The same for bfloat16 on a CPU with the kernels."""

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, D)"""
        return cast(torch.Tensor, self.down_proj(layers.geglu(self.gate_up_proj(x_BTD))))


class KernelRMSNorm(nn.Module):
    """The norm for bfloat16 on a CPU with the kernels."""

    def __init__(self, norm: RMSNorm) -> None:
        """Takes the weight of `norm` over."""
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) -> (…, D)"""
        return layers.rms_norm(x, self.weight, self.eps)


class ActionHead(nn.Module):
    """A head with a layer of its own for the rows of each kind of action token, which decoding asks for."""

    def __init__(self, head: Head, kinds: Iterable[slice], first: int = 0) -> None:
        """kinds: vocabulary rows of each kind of action token. first: forget the entries before it."""
        super().__init__()
        self.kinds = nn.ModuleDict({_key(rows): linear(head.rows(rows).detach()) for rows in kinds})
        self.any_rows = head.without_text(first) if first > head.first else head

    def forward(self, hidden: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """(…, D) -> (…, rows). Raises InputError for rows that are forgotten."""
        layer = self.kinds[key] if (key := _key(rows)) in self.kinds else None
        return cast(torch.Tensor, self.any_rows(hidden, rows) if layer is None else layer(hidden))


def _key(rows: slice) -> str:
    return f"{rows.start}:{rows.stop}"


def fuse_layer(
    layer: Layer,
    config: Gemma2Config,
    bits: WeightFormat | None = None,
    activation_bits: int = 16,
    kernels: bool = False,
) -> None:
    """Replaces the projections of a layer in place; no more than one weight is held twice meanwhile.

    bits, activation_bits: see `spatialvla.model.fast.linear.linear`. kernels: let our operators do what is
    between products, in a bfloat16 decoder on a CPU that has them.
    """

    def joined(part: nn.Module, *names: str) -> nn.Module:
        layers = [part.get_submodule(name) for name in names]
        for name in names:
            delattr(part, name)
        if quantized := [layer for layer in layers if isinstance(layer, FourBitLinear)]:
            return four_bit_linear(joined_in_four_bits(quantized), activation_bits)
        weights = [cast(nn.Linear, layer).weight for layer in layers]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        return linear(weight, None, bits, activation_bits)

    plain, mlp = layer.self_attn, layer.mlp
    attention_kind, mlp_kind = (KernelAttention, KernelMLP) if kernels else (FusedAttention, FusedMLP)
    qkv_proj, o_proj = joined(plain, "q_proj", "k_proj", "v_proj"), joined(plain, "o_proj")
    layer.self_attn = attention_kind(config, qkv_proj, o_proj)
    layer.mlp = mlp_kind(joined(mlp, "gate_proj", "up_proj"), joined(mlp, "down_proj"))


def replace_norms(decoder: Gemma2ForCausalLM) -> None:
    """Lets the norms of a bfloat16 decoder take our operator, in place."""
    for name, part in list(decoder.named_modules()):
        if isinstance(part, RMSNorm):
            decoder.set_submodule(name, KernelRMSNorm(part))

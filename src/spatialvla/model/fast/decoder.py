"""The decoder rearranged for inference: parallel projections in one, and a head that may know actions alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.errors import InputError
from spatialvla.kernels import layers
from spatialvla.kernels.attention import attention
from spatialvla.model.fast.linear import EightBits, linear
from spatialvla.model.gemma2 import MLP, Attention, Gemma2ForCausalLM, Layer, RMSNorm, at_least_float32


class FusedAttention(Attention):
    """Attention that reads queries, keys and values off one product. Made from an `Attention` by `fuse_layer`."""

    qkv_proj: nn.Module

    def project(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        B, T, _ = x_BTD.shape
        heads = self.qkv_proj(x_BTD).view(B, T, -1, self.head_dim).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        return q, k, v


class FusedMLP(MLP):
    """GeGLU that reads gate and up off one product. Made from an `MLP` by `fuse_layer`."""

    gate_up_proj: nn.Module

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(x_BTD).chunk(2, dim=-1)
        return self.down_proj(F.gelu(gate, approximate="tanh") * up)


class KernelAttention(FusedAttention):
    """The same for bfloat16 on a CPU with the kernels."""

    rotate = staticmethod(layers.rotate)

    def attend(
        self, q_BNTH: torch.Tensor, k_BKSH: torch.Tensor, v_BKSH: torch.Tensor, bias_B1TS: torch.Tensor
    ) -> torch.Tensor:
        return attention(q_BNTH, k_BKSH, v_BKSH, bias_B1TS, self.scale, self.softcap)


class KernelMLP(FusedMLP):
    """The same for bfloat16 on a CPU with the kernels."""

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return self.down_proj(layers.geglu(self.gate_up_proj(x_BTD)))


class KernelRMSNorm(RMSNorm):
    """The norm for bfloat16 on a CPU with the kernels. Made from an `RMSNorm` by `use_kernels`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return layers.rms_norm(x, self.weight, self.eps)


class InferenceDecoder(Gemma2ForCausalLM):
    """A decoder with a head of its own for each kind of action token. Made from a `Gemma2ForCausalLM` by `fuse_head`.

    first: the vocabulary entry that the rest of the head starts at.
    """

    first: int
    action_heads: nn.ModuleDict

    def logits(self, hidden: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        start, stop, _ = rows.indices(self.first + len(self.lm_head.weight))
        if start < self.first:
            raise InputError(
                "This model was optimised to speak actions only; load it with text_head=True for other tokens."
            )
        if (key := _key(rows)) in self.action_heads:
            logits = self.action_heads[key](hidden)
        else:
            logits = F.linear(hidden, self.lm_head.weight[start - self.first : stop - self.first])
        logits = logits.to(at_least_float32(logits.dtype))
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def fuse_head(decoder: Gemma2ForCausalLM, kinds: Iterable[slice], first: int = 0) -> None:
    """Gives the rows of each kind of token, which decoding asks for, a layer of their own, in place.

    first: forget the vocabulary entries before it.
    """
    weight = decoder.lm_head.weight
    heads = nn.ModuleDict({_key(rows): linear(weight[rows]) for rows in kinds})
    if first:
        decoder.lm_head.weight = nn.Parameter(weight[first:].detach().clone(), requires_grad=False)
    decoder.__class__ = InferenceDecoder
    assert isinstance(decoder, InferenceDecoder)
    decoder.first, decoder.action_heads = first, heads


def _key(rows: slice) -> str:
    return f"{rows.start}:{rows.stop}"


def fuse_layer(layer: Layer, bits: EightBits | None = None, activation_bits: int = 16) -> None:
    """Replaces the projections of a layer in place; no more than one weight is held twice meanwhile.

    bits, activation_bits: see `spatialvla.model.fast.linear.linear`.
    """

    def joined(module: nn.Module, *names: str) -> nn.Module:
        parts = [cast(nn.Linear, module.get_submodule(name)).weight for name in names]
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        for name in names:
            delattr(module, name)
        return linear(weight, None, bits, activation_bits)

    attention: nn.Module = layer.self_attn
    mlp: nn.Module = layer.mlp
    attention.qkv_proj = joined(attention, "q_proj", "k_proj", "v_proj")
    attention.o_proj = joined(attention, "o_proj")
    attention.__class__ = FusedAttention
    mlp.gate_up_proj = joined(mlp, "gate_proj", "up_proj")
    mlp.down_proj = joined(mlp, "down_proj")
    mlp.__class__ = FusedMLP


def use_kernels(decoder: nn.Module) -> None:
    """Lets fused layers and norms of a bfloat16 decoder take our operators for what is between products, in place."""
    for part in decoder.modules():
        for plain, ours in (
            (FusedAttention, KernelAttention),
            (FusedMLP, KernelMLP),
            (RMSNorm, KernelRMSNorm),
        ):
            if type(part) is plain:
                part.__class__ = ours

"""Attention and activations of the vision towers for inference, by our kernels on CPUs that have them."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import nn
from transformers.activations import GELUTanh
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.beit.modeling_beit import BeitAttention
from transformers.models.siglip.modeling_siglip import SiglipAttention, SiglipMLP

from spatialvla.kernels.attention import attention
from spatialvla.kernels.layers import gelu_tanh
from spatialvla.kernels.library import serve

_NAME = "spatialvla_cpu"


def speed_up(tower: nn.Module) -> None:
    """Lets SigLIP or BEiT in `tower`, in place, take the kernels if it is in bfloat16 on a CPU."""
    if not serve(next(tower.parameters())):
        return
    for part in tower.modules():
        # BEiT's attention has a configuration only where transformers looks up there how it is computed (not 5.5).
        if isinstance(part, BeitAttention | SiglipAttention) and hasattr(part, "config"):
            # The configuration is shared with whatever else was made from it.
            part.config = copy(part.config)
            part.config._attn_implementation = _NAME
        elif isinstance(part, SiglipMLP) and isinstance(part.activation_fn, GELUTanh):
            part.activation_fn = KernelGELU()


class KernelGELU(nn.Module):
    """The tanh approximation of GELU, which SigLIP has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape -> the same"""
        return gelu_tanh(x)


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: heads before tokens in, tokens before heads out. There is no dropout."""
    return attention(query, key, value, attention_mask, scaling), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)

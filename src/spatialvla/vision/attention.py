"""Attention of the vision towers for inference on a CPU, by our own kernel where there is one."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.beit.modeling_beit import BeitAttention
from transformers.models.siglip.modeling_siglip import SiglipAttention

from spatialvla.kernels.attention import attention
from spatialvla.kernels.library import available

_NAME = "spatialvla_cpu"


def replace_attention(tower: nn.Module) -> None:
    """Lets the layers of SigLIP or BEiT in `tower`, in place, attend by the kernel if they are in bfloat16 on a CPU."""
    weight = next(tower.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not available():
        return
    for part in tower.modules():
        if isinstance(part, BeitAttention | SiglipAttention):
            # The configuration is shared with whatever else was made from it.
            part.config = copy(part.config)
            part.config._attn_implementation = _NAME


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

"""The vision towers for inference: our kernels on CPUs that have them, few and fast launches on a GPU."""

from __future__ import annotations

from copy import copy
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import GELUTanh
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.beit.modeling_beit import BeitAttention
from transformers.models.siglip.modeling_siglip import SiglipAttention, SiglipMLP
from transformers.models.zoedepth.modeling_zoedepth import ZoeDepthAttractorLayerUnnormed

from spatialvla.kernels.attention import attention
from spatialvla.kernels.layers import gelu_tanh
from spatialvla.kernels.library import serve
from spatialvla.model.fast.zoedepth import ATTRACTION
from spatialvla.vision.depth import ZoeDepth

_NAME = "spatialvla_cpu"


def speed_up(tower: nn.Module) -> None:
    """Lets SigLIP or BEiT in `tower`, in place, take the kernels if it is in bfloat16 on a CPU."""
    if not serve(next(tower.parameters())):
        return
    for part in tower.modules():
        if isinstance(part, BeitAttention | SiglipAttention):
            # The configuration is shared with whatever else was made from it.
            part.config = copy(part.config)
            part.config._attn_implementation = _NAME
        elif isinstance(part, SiglipMLP) and isinstance(part.activation_fn, GELUTanh):
            part.activation_fn = KernelGELU()


def suit_gpu(depth: ZoeDepth) -> None:
    """Lets ZoeDepth, in place, sum up attractors at once and keep the channels of a pixel together.

    Convolutions and resizings want this order of their maps on a GPU.
    """
    for name, part in list(depth.named_modules()):
        if isinstance(part, ZoeDepthAttractorLayerUnnormed):
            depth.set_submodule(name, AttractorsAtOnce(part))
    for stage in (depth.neck, depth.relative_head, depth.metric_head):
        cast(Any, stage).to(memory_format=torch.channels_last)


class AttractorsAtOnce(nn.Module):
    """Moves the bin centers of each pixel; one by one, each attractor would cost four launches."""

    def __init__(self, layer: ZoeDepthAttractorLayerUnnormed) -> None:
        super().__init__()
        self.conv1, self.act1, self.conv2, self.act2 = layer.conv1, layer.act1, layer.conv2, layer.act2
        self.mean = layer.kind == "mean"

    def forward(
        self, x: torch.Tensor, prev_bin: torch.Tensor, prev_bin_embedding: torch.Tensor, interpolate: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, E, H, W), bins (B, N, h, w) and their embedding (B, E, h, w) -> bins (B, N, H, W), twice."""
        size = tuple(x.shape[-2:])
        bins, embedding = (
            F.interpolate(part, size, mode="bilinear", align_corners=True)
            for part in (prev_bin, prev_bin_embedding)
        )
        attractors = self.act2(self.conv2(self.act1(self.conv1(x + embedding))))
        apart = attractors[:, :, None] - bins[:, None]
        moved = apart / (1 + ATTRACTION * apart.square())
        bins = bins + (moved.mean(dim=1) if self.mean else moved.sum(dim=1))
        return bins, bins


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

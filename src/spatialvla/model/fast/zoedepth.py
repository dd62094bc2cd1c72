"""ZoeDepth's neck and heads for inference: channels of a pixel together, and our map kernels.

Two orders are other than in transformers, with the same result: a convolution of single pixels comes before a
bilinear resizing, which is linear and whose shares add up to 1, too; and of a concatenation each part meets
its own weights.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.zoedepth.modeling_zoedepth import (
    ZoeDepthAttractorLayerUnnormed,
    ZoeDepthConditionalLogBinomialSoftmax,
    ZoeDepthFeatureFusionLayer,
    ZoeDepthPreActResidualLayer,
    log_binom,
)

from spatialvla.kernels.library import serve, serve_on_gpu
from spatialvla.kernels.maps import attract, expected_bin, resize
from spatialvla.kernels.products import bf16_product, pack_bf16
from spatialvla.vision.depth import PerImageHeads, ZoeDepth

ATTRACTION = 300.0
"""What transformers takes for alpha in all attractors, whatever the configuration says."""


class PackedConvolution(nn.Module):
    """A bfloat16 convolution of channels_last maps, its weight laid out once as oneDNN wants it."""

    packed: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, layer: nn.Conv2d, then: str = "none") -> None:
        """then: "none" or "relu", of what comes out."""
        super().__init__()
        padding = cast(tuple[int, int], layer.padding)
        self.arguments = (padding, layer.stride, layer.dilation, layer.groups)
        self.then = then
        reorder = cast(Any, torch._C._nn).mkldnn_reorder_conv2d_weight
        packed = reorder(layer.weight.detach().to_mkldnn(), *self.arguments)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        # BEiT of transformers 5.5 asks for the dtype of its patches' weight.
        self.register_buffer("weight", layer.weight.new_empty(0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H', W'), channels_last"""
        x = x.contiguous(memory_format=torch.channels_last)
        return cast(
            torch.Tensor,
            torch.ops.mkldnn._convolution_pointwise(
                x, self.packed, self.bias, *self.arguments, self.then, [], ""
            ),
        )


class PointConvolution(nn.Module):
    """A bfloat16 convolution of single pixels: a product with all of them."""

    packed: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.outputs = layer.out_channels
        self.register_buffer("packed", pack_bf16(layer.weight.detach().flatten(1)), persistent=False)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H, W), channels_last"""
        pixels = x.permute(0, 2, 3, 1)
        return bf16_product(pixels, self.packed, self.bias, self.outputs).permute(0, 3, 1, 2)


class ResidualLayer(nn.Module):
    """A residual unit of two convolutions, without batch norms."""

    def __init__(self, layer: ZoeDepthPreActResidualLayer) -> None:
        super().__init__()
        self.convolution1 = PackedConvolution(layer.convolution1, then="relu")
        self.convolution2 = layer.convolution2

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        inner = self.convolution1(F.relu(hidden_state))
        return cast(torch.Tensor, self.convolution2(inner) + hidden_state)


class FusionLayer(nn.Module):
    """Two maps added up and resized to twice the size."""

    def __init__(self, layer: ZoeDepthFeatureFusionLayer) -> None:
        super().__init__()
        self.align_corners = layer.align_corners
        self.projection = layer.projection
        self.residual_layer1 = layer.residual_layer1
        self.residual_layer2 = layer.residual_layer2

    def forward(self, hidden_state: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W), and (B, C, h, w) to be added -> (B, C, 2 H, 2 W)"""
        height, width = hidden_state.shape[-2:]
        if residual is not None:
            if hidden_state.shape != residual.shape:
                residual = resize(residual, height, width, False)
            hidden_state = hidden_state + self.residual_layer1(residual)
        projected = self.projection(self.residual_layer2(hidden_state))
        return resize(projected, 2 * height, 2 * width, self.align_corners)


class Upsample(nn.Module):
    """Bilinear resizing to twice the size, with aligned corners."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, C, 2 h, 2 w)"""
        return resize(x, 2 * x.shape[-2], 2 * x.shape[-1], True)


class AttractorLayer(nn.Module):
    """Moves the bin centers of each pixel towards attractors."""

    def __init__(self, layer: ZoeDepthAttractorLayerUnnormed) -> None:
        super().__init__()
        self.conv1, self.act1 = layer.conv1, layer.act1
        self.conv2, self.act2 = layer.conv2, layer.act2
        self.mean = layer.kind == "mean"

    def forward(
        self,
        x: torch.Tensor,
        prev_bin: torch.Tensor,
        prev_bin_embedding: torch.Tensor | None = None,
        interpolate: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, E, H, W), bins (B, N, h, w) and their embedding (B, E, h, w) -> bins (B, N, H, W), twice."""
        if prev_bin_embedding is not None:
            x = resize(prev_bin_embedding, x.shape[-2], x.shape[-1], True, plus=x)
        attractors = self.act2(self.conv2(self.act1(self.conv1(x))))
        bins = attract(prev_bin, attractors, ATTRACTION, self.mean)
        return bins, bins


class LogBinomial(nn.Module):
    """The last step of a metric head: the depth at each pixel from its bins and their probabilities."""

    constants: torch.Tensor

    def __init__(self, head: ZoeDepthConditionalLogBinomialSoftmax, last: int) -> None:
        """last: channels of the first of the two maps that the head's first convolution takes as one."""
        super().__init__()
        layers: list[Any] = list(head.mlp)
        first, *between, self.positive = layers
        self.between = nn.Sequential(*between)
        of_last, of_embedding = first.weight.split([last, first.in_channels - last], dim=1)
        self.of_last, self.of_embedding = _pointwise(of_last, first.bias), _pointwise(of_embedding, None)
        self.p_eps, self.min_temp, self.max_temp = head.p_eps, head.min_temp, head.max_temp
        transform = head.log_binomial_transform
        constants = log_binom(transform.k_minus_1, transform.k_idx).flatten().float()
        self.register_buffer("constants", constants, persistent=False)

    def forward(self, last: torch.Tensor, embedding: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W), (B, E, h, w) and bin centers (B, N, h, w) -> (B, 1, H, W) meters, float32."""
        height, width = last.shape[-2:]
        mixed = resize(self.of_embedding(embedding), height, width, True, plus=self.of_last(last))
        pairs = self.positive(self.between(mixed).float()) + self.p_eps
        p, temperature = (pair[:, 0] / pair.sum(dim=1) for pair in pairs.split(2, dim=1))
        smallest = 1e-4  # of a probability, as in LogBinomialSoftmax
        slopes = torch.log(p.clamp(min=smallest)) - torch.log((1 - p).clamp(min=smallest))
        temperature = (self.max_temp - self.min_temp) * temperature + self.min_temp
        return expected_bin(centers, self.constants, slopes, 1 / temperature)[:, None]


class MetricHeads(PerImageHeads):
    """The heads with `LogBinomial` as the last step of each."""

    def __init__(self, heads: PerImageHeads, last: int) -> None:
        """last: channels of the map that each head's last step reads beside the embedding."""
        super().__init__(heads)
        steps = {
            name: LogBinomial(cast(ZoeDepthConditionalLogBinomialSoftmax, head), last)
            for name, head in heads.conditional_log_binomial.items()
        }
        self.conditional_log_binomial = nn.ModuleDict(steps)

    def _mixed(
        self, name: str, last: torch.Tensor, embedding: torch.Tensor, centers: torch.Tensor
    ) -> torch.Tensor:
        return cast(torch.Tensor, self.conditional_log_binomial[name](last, embedding, centers))


def replace_maps(depth: ZoeDepth) -> None:
    """Lets neck and heads take the kernels, in place, where they are for these weights.

    Those are bfloat16 on a CPU that has them, and 16 bits on a GPU.
    """
    weight, last = next(depth.parameters()), depth.config.num_relative_features
    if weight.is_cuda:
        for stage in (depth.neck, depth.relative_head, depth.metric_head):
            cast(Any, stage).to(memory_format=torch.channels_last)
        if serve_on_gpu(weight):
            import_module(
                "spatialvla.kernels.gpu.maps"
            )  # registers them; Triton comes with PyTorch for GPUs only

            _replace_children(depth, last, packing=False)
        return
    known = hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight") and torch.backends.mkldnn.is_available()
    if known and serve(weight):
        _replace_children(depth, last, packing=True)


def _replace_children(module: nn.Module, last: int, packing: bool) -> None:
    for name, part in list(module.named_children()):
        fast = _replacement(part, last, packing)
        if fast is not part:
            module.set_submodule(name, fast)
        _replace_children(fast, last, packing)


def _replacement(part: nn.Module, last: int, packing: bool) -> nn.Module:
    """What takes the kernels in a module's stead, with its parts; the module itself where nothing does.

    packing: convolutions have weights in oneDNN's order and ours.
    """
    if isinstance(part, ZoeDepthFeatureFusionLayer):
        return FusionLayer(part)
    if packing and isinstance(part, ZoeDepthPreActResidualLayer) and not part.use_batch_norm:
        return ResidualLayer(part)
    if isinstance(part, ZoeDepthAttractorLayerUnnormed):
        return AttractorLayer(part)
    if (
        isinstance(part, nn.Upsample)
        and part.scale_factor == 2
        and part.mode == "bilinear"
        and part.align_corners
    ):
        return Upsample()
    if type(part) is PerImageHeads:
        return MetricHeads(part, last)
    return _packed(part) if packing and type(part) is nn.Conv2d else part


def _packed(layer: nn.Conv2d) -> nn.Module:
    pointwise = layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0)
    # Our product takes channels in pairs.
    return PointConvolution(layer) if pointwise and layer.in_channels % 2 == 0 else PackedConvolution(layer)


def _pointwise(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv2d:
    outputs, inputs = weight.shape[:2]
    layer = nn.Conv2d(inputs, outputs, 1, bias=bias is not None, dtype=weight.dtype, device=weight.device)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer.requires_grad_(False)

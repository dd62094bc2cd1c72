"""Where metric depth comes from: the checkpoint's ZoeDepth, or any metric estimator of transformers.

A depth source maps pixel values (B, 3, H, W) in [0, 1] to meters (B, H, W). A sensor needs no source: its map
travels in `Batch.depth`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self, cast

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForDepthEstimation,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
)
from transformers.models.zoedepth.modeling_zoedepth import ZoeDepthMultipleMetricDepthEstimationHeads

from spatialvla.errors import InputError


class DepthSource(Protocol):
    """Estimates depth in meters, (B, H, W) float32, from pixel values (B, 3, H, W) in [0, 1]."""

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, H, W) meters"""


class PerImageHeads(nn.Module):
    """ZoeDepth's indoor and outdoor heads, chosen for each image by itself.

    Upstream sums the vote over the batch, so an image's depth would depend on its batch mates.
    without_waiting: run all heads for all images and pick afterwards: more work, but the host need not know
    the votes.
    """

    bin_configurations: list[dict[str, Any]]
    bin_centers_type: str
    conv2: nn.Conv2d
    patch_transformer: nn.Module
    mlp_classifier: nn.Module
    seed_bin_regressors: nn.ModuleDict
    seed_projector: nn.Module
    projectors: nn.ModuleList
    attractors: nn.ModuleDict
    conditional_log_binomial: nn.ModuleDict

    def __init__(self, heads: ZoeDepthMultipleMetricDepthEstimationHeads | PerImageHeads) -> None:
        """Takes the parts of other heads over, under the same names."""
        super().__init__()
        self.without_waiting = False
        self.bin_configurations = heads.bin_configurations
        self.bin_centers_type = heads.bin_centers_type
        self.conv2 = heads.conv2
        self.patch_transformer = heads.patch_transformer
        self.mlp_classifier = heads.mlp_classifier
        self.seed_bin_regressors = heads.seed_bin_regressors
        self.seed_projector = heads.seed_projector
        self.projectors = heads.projectors
        self.attractors = heads.attractors
        self.conditional_log_binomial = heads.conditional_log_binomial

    def forward(
        self,
        outconv_activation: torch.Tensor,
        bottleneck: torch.Tensor,
        feature_blocks: list[torch.Tensor],
        relative_depth: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Depth (B, 1, h, w) meters and the votes' logits (B, 2), of what upstream hands to its heads."""
        features = self.conv2(bottleneck)
        domain_logits = self.mlp_classifier(self.patch_transformer(features)[:, 0])
        votes = domain_logits.argmax(dim=-1)
        maps = [features, outconv_activation, *feature_blocks]
        if self.without_waiting:
            every = [self._metric(head, *maps) for head in range(len(self.bin_configurations))]
            return torch.stack(every)[votes, torch.arange(len(votes), device=votes.device)], domain_logits
        heads = votes.unique().tolist()
        if len(heads) == 1:
            return self._metric(heads[0], *maps), domain_logits
        depth = outconv_activation.new_empty(len(votes), 1, *outconv_activation.shape[2:])
        for head in heads:
            rows = votes == head
            depth[rows] = self._metric(head, *(part[rows] for part in maps))
        return depth, domain_logits

    def _metric(
        self, head: int, features: torch.Tensor, last: torch.Tensor, *blocks: torch.Tensor
    ) -> torch.Tensor:
        """(B, 1, h, w) meters: bin centers refined from block to block, then averaged."""
        setting = self.bin_configurations[head]
        name = setting["name"]
        _, bins = self.seed_bin_regressors[name](features)
        if self.bin_centers_type in ("normed", "hybrid2"):
            bins = (bins - setting["min_depth"]) / (setting["max_depth"] - setting["min_depth"])
        centers, embedding = bins, self.seed_projector(features)
        attractors = cast(nn.ModuleList, self.attractors[name])
        for projector, attractor, block in zip(self.projectors, attractors, blocks, strict=False):
            before, embedding = embedding, projector(block)
            bins, centers = attractor(embedding, bins, before, interpolate=True)
        return self._mixed(name, last, embedding, centers)

    def _mixed(
        self, name: str, last: torch.Tensor, embedding: torch.Tensor, centers: torch.Tensor
    ) -> torch.Tensor:
        """Bin centers (B, N, h, w) -> (B, 1, H, W), averaged by their probabilities at each pixel."""
        size = tuple(last.shape[-2:])
        centers, embedding = (
            F.interpolate(part, size, mode="bilinear", align_corners=True) for part in (centers, embedding)
        )
        probabilities: torch.Tensor = self.conditional_log_binomial[name](last, embedding)
        return (probabilities * centers).sum(dim=1, keepdim=True)


class KeptPositionBias(nn.Module):
    """A layer's relative position bias of one window size, looked up once instead of for every image."""

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, *window: Any, **options: Any) -> torch.Tensor:
        """The bias (1, heads, tokens, tokens), whatever the window."""
        return cast(torch.Tensor, self.bias)


def _without_mask(
    layer: nn.Module, given: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a layer of BEiT is given, but for the mask.

    No patch is ever hidden. But while a CUDA graph is recorded transformers makes a mask that hides nothing, and
    every layer would add it to its bias: 30 us each in the 4 B model on an H200.
    """
    return given, {**options, "attention_mask": None}


class ZoeDepth(ZoeDepthForDepthEstimation):
    """The checkpoint's depth estimator: frozen, and in eval mode whatever the model around it does."""

    def __init__(self, config: ZoeDepthConfig, padding: int) -> None:
        """padding: pixels reflected around the image before it is resized to the backbone's size."""
        super().__init__(config)
        self.padding = padding
        self.input_size: int = self.backbone.config.image_size
        if isinstance(self.metric_head, ZoeDepthMultipleMetricDepthEstimationHeads):
            self.set_submodule("metric_head", PerImageHeads(self.metric_head))
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Eval mode, whatever is asked for."""
        super().train(False)
        return self

    def keep_position_bias(self) -> None:
        """Looks the position biases of BEiT up once, for inference: faster, for 11 MB a layer in bfloat16.

        The tables they come from are gone afterwards, so that the estimator cannot be saved any more.
        """
        side = self.input_size // self.patch_size
        for part in list(self.backbone.modules()):
            table = getattr(part, "relative_position_bias", None)
            if isinstance(table, nn.Module):
                with torch.no_grad():
                    part.relative_position_bias = kept = KeptPositionBias(table((side, side)))
                if cast(torch.Tensor, kept.bias).is_cuda:
                    part.register_forward_pre_hook(_without_mask, with_kwargs=True)

    def prepare(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 3, S, S) in [-1, 1]: bordered, bicubic to the backbone's size."""
        padded = F.pad(pixel_values * 2 - 1, (self.padding,) * 4, mode="reflect")
        return self._resize(padded, (self.input_size, self.input_size))

    def restore(self, predicted: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        """The network's depth (B, S', S') -> (B, H, W) over the image without its border."""
        height, width = image_size
        pad = self.padding
        padded = self._resize(predicted.float()[:, None], (height + 2 * pad, width + 2 * pad))[:, 0]
        return padded[:, pad : pad + height, pad : pad + width]

    def estimate(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, H, W) meters, float32, with gradients if the weights ask for them."""
        inputs = self.prepare(pixel_values.float()).to(self.dtype)
        predicted = self(pixel_values=inputs).predicted_depth
        return self.restore(predicted, (pixel_values.shape[-2], pixel_values.shape[-1]))

    @staticmethod
    def _resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if tuple(maps.shape[-2:]) == size:
            return maps
        return F.interpolate(maps, size=size, mode="bicubic", align_corners=True)


class MetricDepthEstimator:
    """Any metric depth estimator of transformers as a depth source (Depth Anything V2 Metric, …)."""

    def __init__(self, model: nn.Module, image_processor: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.image_processor = image_processor

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path) -> MetricDepthEstimator:
        """Loads a folder or Hub id that holds a depth estimation model and its image processor."""
        model = AutoModelForDepthEstimation.from_pretrained(str(path_or_id), trust_remote_code=False)
        kind = getattr(model.config, "depth_estimation_type", "metric")
        if kind != "metric":
            raise InputError(f"{path_or_id} estimates {kind} depth; a checkpoint for metric depth is needed.")
        return cls(model, AutoImageProcessor.from_pretrained(str(path_or_id), use_fast=False))

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, H, W) meters, float32"""
        images = [image.permute(1, 2, 0).cpu().numpy() for image in (pixel_values * 255).round().byte()]
        sizes = [image.shape[:2] for image in images]
        parameter = next(self.model.parameters())
        inputs = self.image_processor(images=images, return_tensors="pt")
        outputs = self.model(**{k: v.to(parameter.device, parameter.dtype) for k, v in inputs.items()})
        options = {"source_sizes": sizes} if "zoe" in type(self.image_processor).__name__.lower() else {}
        maps = self.image_processor.post_process_depth_estimation(outputs, target_sizes=sizes, **options)
        return torch.stack([item["predicted_depth"].float() for item in maps]).to(pixel_values.device)

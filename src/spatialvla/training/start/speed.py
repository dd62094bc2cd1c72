"""What makes a run's steps faster and leaves its losses as they are: attention, patches and compiled layers."""

from __future__ import annotations

import shutil
from copy import copy

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.siglip.modeling_siglip import SiglipAttention, SiglipVisionEmbeddings

from spatialvla.model.fast.compiled import compile_layers
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.config import TrainConfig
from spatialvla.training.options import Precision
from spatialvla.training.precision import computes_bfloat16

LONG_MINUTES, LONG_SAMPLES = 10, 20_000
"""From where on a run is long enough to compile for on a CPU: that takes a minute or two, and saves a third."""


def speed_up(model: SpatialVLA, precision: Precision, compiled: bool) -> None:
    """Prepares a model for steps where it is, in place; parameters keep their names.

    compiled: whether its layers are, which wants batches filled to multiples of `PROMPT_MULTIPLE` tokens.
    """
    if model.device.type == "cpu":
        _multiply_patches(model)
        if computes_bfloat16(precision, model.device):
            _attend_by_products(model)
    if compiled:
        compile_layers(model)


def compiles(
    config: TrainConfig, device: torch.device, steps: int | None, decided: bool | None = None
) -> bool:
    """Whether a run compiles its layers: as configured or, unless told, where that pays back on a CPU.

    steps: of the whole run, None where time alone ends it. decided: what the run decided when it began, None for a
    new one. It holds where it can be kept, whatever steps or minutes the run is resumed with: so it goes on as it
    began, to the bit.
    """
    if config.compile is not None:
        return config.compile
    possible = device.type == "cpu" and shutil.which("g++") is not None
    if decided is not None:
        return decided and possible
    long = config.minutes is None or config.minutes >= LONG_MINUTES
    many = steps is None or steps * config.batch_size >= LONG_SAMPLES
    return possible and long and many


def _attend_by_products(model: SpatialVLA) -> None:
    """SigLIP's attention as two products: PyTorch's fused one takes four times as long in bfloat16 on a CPU."""
    for part in model.vision_tower.modules():
        if isinstance(part, SiglipAttention):
            # The configuration is shared with whatever else was made from it.
            part.config = copy(part.config)
            part.config._attn_implementation = "eager"


class PatchProduct(nn.Conv2d):
    """A convolution over patches side by side as one matrix product, whose gradient a CPU computes faster."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, D, rows, columns)"""
        (size, _), (N, C, H, W) = self.kernel_size, input.shape
        grid = input.view(N, C, H // size, size, W // size, size).permute(0, 2, 4, 1, 3, 5)
        return F.linear(grid.flatten(3), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _multiply_patches(model: SpatialVLA) -> None:
    # Where in SigLIP they are depends on the version of transformers.
    for part in model.vision_tower.modules():
        if isinstance(part, SiglipVisionEmbeddings):
            part.patch_embedding = _as_product(part.patch_embedding)


def _as_product(given: nn.Conv2d) -> PatchProduct:
    """With the same parameters."""
    with torch.device("meta"):
        size = given.kernel_size[0]
        product = PatchProduct(given.in_channels, given.out_channels, size, stride=size)
    product.weight, product.bias = given.weight, given.bias
    return product

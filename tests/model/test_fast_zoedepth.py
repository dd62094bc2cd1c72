"""ZoeDepth with our own map kernels: the depth that it estimated before, within what bfloat16 rounds away."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import ZoeDepthConfig

from spatialvla.kernels import library
from spatialvla.model.fast.towers import speed_up
from spatialvla.model.fast.zoedepth import MetricHeads, PackedConvolution, replace_maps
from spatialvla.model.presets import preset
from spatialvla.vision.depth import ZoeDepth

needs_kernels = pytest.mark.skipif(not library.available(), reason="this processor has no AVX-512 BF16")
images = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def estimator(**changes) -> ZoeDepth:
    """With random weights that keep what comes in, as trained ones do, so that errors show in the depth."""
    torch.manual_seed(0)
    depth = ZoeDepth(ZoeDepthConfig(**dict(preset("nano").depth) | changes), padding=8)
    with torch.no_grad():
        for name, weight in depth.named_parameters():
            if weight.ndim > 1 and "relative_position" not in name and "token" not in name:
                weight.normal_(std=(2 / weight[0].numel()) ** 0.5)
            elif name.endswith("bias"):
                weight.normal_(std=0.3)
    return depth


TWO_HEADS = {
    "bin_configurations": [
        {"name": "nyu", "n_bins": 24, "min_depth": 1e-3, "max_depth": 10.0},
        {"name": "kitti", "n_bins": 24, "min_depth": 1e-3, "max_depth": 80.0},
    ],
    "num_patch_transformer_layers": 4,
    "patch_transformer_hidden_size": 128,
    "patch_transformer_intermediate_size": 32,
    "patch_transformer_num_attention_heads": 2,
}


def three(changes) -> list[ZoeDepth]:
    """The same in float32, in bfloat16, and in bfloat16 with the kernels."""
    exact = estimator(**changes)
    if changes:
        # All of them vote for the same head, whatever is rounded.
        exact.metric_head.mlp_classifier.linear2.bias[1] += 100
    plain = deepcopy(exact).bfloat16()
    fast = deepcopy(plain)
    speed_up(fast)
    replace_maps(fast)
    assert any(isinstance(part, PackedConvolution) for part in fast.modules())
    assert isinstance(fast.metric_head, MetricHeads) == bool(changes)
    return [exact, plain, fast]


def no_worse(truth: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> float:
    """How far off `after` is, relative to the spread of what is true."""
    assert after.shape == before.shape == truth.shape
    wrong = [float((result - truth).pow(2).mean().sqrt() / truth.std()) for result in (before, after)]
    assert wrong[1] < 1.5 * wrong[0] + 1e-3
    return wrong[1]


@needs_kernels
@pytest.mark.parametrize("changes", [{}, TWO_HEADS, TWO_HEADS | {"attractor_kind": "sum"}])
@torch.no_grad()
def test_each_stage_does_what_it_did(changes):
    estimators = three(changes)
    side = estimators[0].input_size // estimators[0].patch_size
    maps = estimators[1].backbone(estimators[1].prepare(images).bfloat16()).feature_maps
    necks = [part.neck([one.to(part.dtype) for one in maps], side, side) for part in estimators]
    for blocks in zip(*(blocks for blocks, _ in necks), strict=True):
        assert no_worse(*blocks) < 0.02
    assert no_worse(*(bottleneck for _, bottleneck in necks)) < 0.02

    blocks, bottleneck = necks[1]
    relative = [part.relative_head([block.to(part.dtype) for block in blocks]) for part in estimators]
    assert no_worse(*(features for _, features in relative)) < 0.02

    depth, features = relative[1]
    meters = [
        part.metric_head(
            features.to(part.dtype),
            bottleneck.to(part.dtype),
            [block.to(part.dtype) for block in blocks],
            depth.to(part.dtype),
        )[0]
        for part in estimators
    ]
    assert no_worse(*meters) < 0.3


@needs_kernels
@pytest.mark.parametrize("changes", [{}, TWO_HEADS])
@torch.no_grad()
def test_depth_is_what_it_was(changes):
    no_worse(*(part.estimate(images) for part in three(changes)))


@torch.no_grad()
def test_other_estimators_are_left_alone():
    depth = estimator(**TWO_HEADS)
    expected = depth.estimate(images)
    replace_maps(depth)
    assert any(type(part) is nn.Conv2d for part in depth.modules())
    assert torch.equal(depth.estimate(images), expected)

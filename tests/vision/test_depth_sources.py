"""Depth sources: frozen ZoeDepth with its heads chosen per image, and any metric estimator of transformers."""

import copy

import pytest
import torch
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessorPil,
    ZoeDepthConfig,
)
from transformers.models.beit.modeling_beit import BeitLayer

from spatialvla import SpatialVLA
from spatialvla.errors import InputError
from spatialvla.model.presets import preset
from spatialvla.vision.depth import MetricDepthEstimator, ZoeDepth, _without_mask

HEADS = [
    {"name": "nyu", "n_bins": 8, "min_depth": 1e-3, "max_depth": 10.0},
    {"name": "kitti", "n_bins": 8, "min_depth": 1e-3, "max_depth": 80.0},
]


@pytest.fixture(scope="module")
def two_heads() -> ZoeDepth:
    torch.manual_seed(0)
    config = ZoeDepthConfig(
        **dict(preset("nano").depth)
        | {
            "bin_configurations": HEADS,
            "num_patch_transformer_layers": 4,
            "patch_transformer_hidden_size": 128,
            "patch_transformer_intermediate_size": 32,
            "patch_transformer_num_attention_heads": 2,
        }
    )
    return ZoeDepth(config, padding=8)


def test_each_image_chooses_its_own_head(two_heads):
    images = torch.rand(6, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    votes: list[torch.Tensor] = []
    classifier = two_heads.metric_head.mlp_classifier
    classifier.register_forward_hook(lambda module, inputs, output: votes.append(output))
    with torch.no_grad():
        two_heads.estimate(images)
        # Move the border between the heads into the midst of these images, so that both are really used.
        classifier.linear2.bias[0] += (votes[0][:, 1] - votes[0][:, 0]).median()
        votes.clear()
        together = two_heads.estimate(images)
        assert len(set(votes[0].argmax(-1).tolist())) == 2
        alone = torch.cat([two_heads.estimate(image[None]) for image in images])
        two_heads.metric_head.without_waiting = True
        all_heads = two_heads.estimate(images)
        two_heads.metric_head.without_waiting = False
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(all_heads, together, atol=1e-5, rtol=1e-4)


def test_kept_position_biases_change_nothing(two_heads):
    estimator = copy.deepcopy(two_heads)
    for name, table in estimator.named_parameters():
        if "relative_position_bias_table" in name:
            torch.nn.init.normal_(table)
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        before = estimator.estimate(images)
        estimator.keep_position_bias()
        torch.testing.assert_close(estimator.estimate(images), before)
    assert not any("relative_position_bias_table" in name for name in estimator.state_dict())


@torch.no_grad()
def test_layers_are_kept_from_a_mask_that_hides_nothing(two_heads):
    layer = next(part for part in two_heads.modules() if isinstance(part, BeitLayer))
    side = two_heads.input_size
    patches = torch.randn(
        1, (side // two_heads.patch_size) ** 2 + 1, layer.layernorm_before.normalized_shape[0]
    )
    wanted = layer(patches, resolution=(side, side))
    hook = layer.register_forward_pre_hook(_without_mask, with_kwargs=True)
    mask = torch.rand(1, 1, 1, patches.shape[1])
    assert torch.equal(layer(patches, attention_mask=mask, resolution=(side, side)), wanted)
    hook.remove()
    assert not torch.equal(layer(patches, attention_mask=mask, resolution=(side, side)), wanted)


def test_train_mode_and_gradients_never_reach_it(two_heads):
    two_heads.train()
    assert not any(module.training for module in two_heads.modules())
    assert not any(p.requires_grad for p in two_heads.parameters())


def depth_anything(kind: str) -> DepthAnythingForDepthEstimation:
    backbone = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    return DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=32,
            neck_hidden_sizes=[8, 8, 8, 8],
            fusion_hidden_size=8,
            head_hidden_size=8,
            depth_estimation_type=kind,
            max_depth=20,
        )
    )


def save(folder, kind: str):
    depth_anything(kind).save_pretrained(folder)
    DPTImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def test_another_metric_estimator_takes_zoedepths_place(tmp_path):
    estimator = MetricDepthEstimator.from_pretrained(save(tmp_path, "metric"))
    depth = estimator(torch.rand(2, 3, 56, 56))
    assert depth.shape == (2, 56, 56)
    assert depth.dtype == torch.float32
    model = SpatialVLA(preset("nano"))
    keys = set(model.state_dict())
    model.depth_source = estimator
    assert set(model.state_dict()) == keys, "the source's weights are not the checkpoint's"
    assert model.depth_source is estimator
    model.depth_source = None
    assert model.depth_source == model.vision_zoe_model.estimate


def test_relative_depth_is_refused(tmp_path):
    with pytest.raises(InputError, match="relative depth"):
        MetricDepthEstimator.from_pretrained(save(tmp_path, "relative"))

"""Attention of the vision towers by our own kernel: SigLIP's and BEiT's results stay what they were."""

from copy import deepcopy

import pytest
import torch
from transformers.models.beit.modeling_beit import BeitAttention
from transformers.models.siglip.modeling_siglip import SiglipAttention

from spatialvla import SpatialVLA
from spatialvla.kernels import library
from spatialvla.model.fast import towers
from spatialvla.model.fast.towers import speed_up
from spatialvla.model.presets import preset

needs_kernels = pytest.mark.skipif(not library.available(), reason="this processor has no AVX-512 BF16")


@pytest.fixture(scope="module")
def model() -> SpatialVLA:
    """With random weights so large that attention shows in what comes out."""
    torch.manual_seed(0)
    model = SpatialVLA.from_config(preset("nano")).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
    return model


def tower(model: SpatialVLA, name: str):
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    if name == "siglip":
        return deepcopy(model.vision_tower), lambda part: part(pixels.to(part.dtype)).last_hidden_state
    backbone = deepcopy(model.vision_zoe_model.backbone)
    return backbone, lambda part: torch.cat(part(pixels.to(part.dtype)).feature_maps)


@needs_kernels
@pytest.mark.parametrize("name", ["siglip", "beit"])
@torch.no_grad()
def test_towers_see_the_same(model, name, monkeypatch):
    exact, run = tower(model, name)
    plain = deepcopy(exact).bfloat16()
    fast = deepcopy(plain)
    speed_up(fast)
    called = []
    kernel = towers.attention
    monkeypatch.setattr(towers, "attention", lambda *args: called.append(1) or kernel(*args))
    results = [run(part).float() for part in (exact, plain, fast)]
    # BEiT of transformers 5.5 computes its attention by itself.
    layers = [part for part in plain.modules() if isinstance(part, BeitAttention | SiglipAttention)]
    assert len(layers) == 4
    assert len(called) == sum(hasattr(part, "config") for part in layers)
    wrong = [float((result - results[0]).norm() / results[0].norm()) for result in results[1:]]
    assert wrong[1] < 1.1 * wrong[0] < 0.05


def test_other_towers_are_left_alone(model):
    exact, run = tower(model, "siglip")
    expected = run(exact)
    speed_up(exact)
    assert torch.equal(run(exact), expected)
    assert model.vision_tower.config._attn_implementation == exact.config._attn_implementation

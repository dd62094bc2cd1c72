"""The vision stage: it learns from the image, leaves the decoder alone, and hands over to the policy's training."""

import json

import torch

from spatialvla.model.presets import preset
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.feed.datasets import MemoryData
from spatialvla.training.guidance.vision_stage import pretrain_vision
from spatialvla.training.loop import train
from spatialvla.training.parallel.world import World
from spatialvla.training.run.progress import Progress
from spatialvla.training.start.build import build, calm_residuals, network_config

OPTIONS = {
    "depth": "sensor",
    "privileged": ("observation.state[0:1]",),
    "vision_batch_size": 16,
    "vision_rate": 3e-3,
    "keypoints": ("observation.square",),
}


def test_the_encoder_learns_and_the_rest_stays(make_config, tmp_path):
    config = make_config(vision_steps=200, **OPTIONS)
    torch.manual_seed(0)
    data = MemoryData(config, network_config(config), World())
    model, processor = build(config, data)
    data.begin(model, processor, Progress(config, None))
    before = {name: p.clone() for name, p in model.named_parameters()}
    log = tmp_path / "vision.jsonl"
    pretrain_vision(model, data, config, log)
    first, second = map(json.loads, log.read_text().splitlines())
    assert second["regression"] < 0.7 * first["regression"]
    assert second["looking"] < 0.5 * first["looking"]
    assert second["held_out/looking"] < 0.5  # looking at random costs about 2
    for name, parameter in model.named_parameters():
        learns = name.startswith(("vision_tower", "position_embedding_3d"))
        assert torch.equal(before[name], parameter) != learns, name


def test_it_comes_before_the_policys_training_and_only_once(make_config):
    config = make_config(steps=2, save_every=1, vision_steps=100, **OPTIONS)
    assert train(config, device="cpu").finished
    written = (config.out / "vision.jsonl").stat().st_mtime_ns
    train(make_config(steps=4, save_every=1, vision_steps=100, **OPTIONS), resume=True, device="cpu")
    assert (config.out / "vision.jsonl").stat().st_mtime_ns == written


def test_calmed_residuals_add_less():
    torch.manual_seed(0)
    model = SpatialVLA(preset("nano"))
    layer = model.vision_tower.encoder.layers[0]
    before = layer.mlp.fc2.weight.std()
    calm_residuals(model)
    assert torch.isclose(layer.mlp.fc2.weight.std(), before * 8**-0.5)

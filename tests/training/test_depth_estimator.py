import json

import pytest
import torch

from spatialvla.data.augmentation import Augmentation
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.folders import SHIPPED
from spatialvla.model.presets import preset
from spatialvla.policy import Policy
from spatialvla.training.depth_config import DepthConfig
from spatialvla.training.depth_estimator import (
    depth_frames,
    depth_loss,
    depth_quality,
    train_depth,
    untrained_estimator,
)
from spatialvla.training.loop import train


def test_the_estimator_learns_and_a_run_freezes_it(dataset, tmp_path, make_config):
    weights = tmp_path / "depth"
    training = DepthConfig(
        str(dataset),
        weights,
        cache=tmp_path / "cache",
        preset="tiny",
        steps=60,
        minutes=None,
        batch_size=8,
        held_out=0.25,
        learning_rate=5e-3,
    )
    network = preset("tiny")
    mixture = depth_frames(training, network)
    before = depth_quality(untrained_estimator(network), mixture, frames=24)
    quality = train_depth(training)
    assert quality.abs_rel < 0.5 * before.abs_rel
    assert quality.delta1 > 0.8
    assert json.loads((weights / "quality.json").read_text())["abs_rel"] == quality.abs_rel

    config = make_config(depth="estimate", depth_mix=0.5, depth_weights=weights, steps=2)
    policy = Policy.from_pretrained(train(config, device="cpu").model)
    again = depth_quality(policy.model.vision_zoe_model, mixture, frames=256)
    assert again.abs_rel == pytest.approx(quality.abs_rel, rel=1e-4)


def test_the_loss_ignores_missing_readings_and_punishes_a_wrong_scale():
    truth = torch.rand(2, 8, 8) + 0.5
    holes = truth.clone()
    holes[:, :4] = 0
    assert depth_loss(truth, holes).item() < 1e-3
    assert depth_loss(2 * truth, truth).item() > 0.5
    predicted = truth.clone()
    predicted[:, :4] = 9
    assert depth_loss(predicted, holes).item() < 1e-3


def test_a_models_folder_is_no_depth_estimators(make_config):
    config = make_config(depth="estimate", depth_mix=0.5, depth_weights=SHIPPED / "nano", steps=2)
    sentence = (
        "does not hold the depth estimator of tiny; give the folder that `spatialvla train-depth` wrote"
    )
    with pytest.raises(CheckpointError, match=sentence):
        train(config, device="cpu")


def test_crops_are_refused(dataset, tmp_path):
    with pytest.raises(InputError, match="whole images"):
        DepthConfig(str(dataset), tmp_path, augmentation=Augmentation())

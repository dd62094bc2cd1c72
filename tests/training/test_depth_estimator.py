import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rlds_writer import write_steps
from safetensors.torch import load_file
from tiny_policy import tiny

from spatialvla.common.claims import claimed
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.oxe import actions
from spatialvla.data.oxe.spec import RLDSSpec
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.folders import SHIPPED
from spatialvla.model.lora import add_lora
from spatialvla.model.presets import preset
from spatialvla.model.quantization_entry import Quantization
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.policy import Policy
from spatialvla.training.checkpoints.export import export
from spatialvla.training.depth_config import DepthConfig
from spatialvla.training.depth_estimator import (
    depth_frames,
    depth_loss,
    depth_quality,
    train_depth,
    untrained_estimator,
)
from spatialvla.training.loop import train
from spatialvla.training.start import build
from spatialvla.training.start.build import check_start, load_depth


def test_the_estimator_learns_and_a_run_freezes_it(dataset, tmp_path, make_config):
    weights = tmp_path / "depth"
    training = DepthConfig(
        (str(dataset),),
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
    with (
        claimed(weights / "model.safetensors", "training run"),
        pytest.raises(InputError, match="Another training run is writing"),
    ):
        train_depth(training)
    quality = train_depth(training)
    assert quality.abs_rel < 0.5 * before.abs_rel
    assert quality.delta1 > 0.8
    assert json.loads((weights / "quality.json").read_text())["abs_rel"] == quality.abs_rel

    config = make_config(depth="estimate", depth_mix=0.5, depth_weights=weights, steps=2)
    policy = Policy.from_pretrained(train(config, device="cpu").model)
    again = depth_quality(policy.model.vision_zoe_model, mixture, frames=256)
    assert again.abs_rel == pytest.approx(quality.abs_rel, rel=1e-4)


@pytest.mark.parametrize("mode", ["full", "lora", "adapt"])
def test_a_fine_tuned_policy_keeps_the_estimator_that_it_was_trained_with(make, dataset, depth_weights, mode):
    """Also where what comes out is an adapter, whose base has another one."""
    config = make(mode, [dataset], depth="estimate", depth_weights=depth_weights, steps=1)
    result = train(config, device="cpu")
    wanted, base = load_file(depth_weights / "model.safetensors"), estimator_of(config.policy)
    assert not all(torch.equal(base[name], tensor) for name, tensor in wanted.items())
    export(config.out, config.out / "whole", merge=mode == "lora")
    for folder in (result.model, config.out / "whole"):
        found = estimator_of(folder)
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_run_of_adapters_whose_checkpoints_lack_the_estimator_goes_on(
    make, dataset, depth_weights, tmp_path
):
    """As a version wrote them that did not know the estimator to be another than the base's."""
    config = make("lora", [dataset], depth="estimate", depth_weights=depth_weights, steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            build, "add_lora", lambda model, base, options, other_depth: add_lora(model, base, options)
        )
        train(config, device="cpu")
    result = train(replace(config, steps=2), resume=True, device="cpu")
    found, wanted = estimator_of(result.model), load_file(depth_weights / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_vision_zoe": False}, "has no depth estimator that another could replace"),
        ({"quantization": Quantization(towers=True)}, "has its depth estimator in 4 bits"),
    ],
)
def test_another_estimator_is_refused_where_none_can_be_replaced(make, depth_weights, changes, message):
    config = make("lora", depth_weights=depth_weights)
    with pytest.raises(InputError, match=message):
        check_start(config, tiny().replace(**changes))


def estimator_of(folder):
    return SpatialVLA.from_pretrained(folder).vision_zoe_model.state_dict()


def _two_cameras(root, depth=("left", "right")):
    """A bright wall 0.6 m in front of the left camera, a dark one 1.8 m in front of the right.

    depth: those that have a sensor.
    """
    sides = {"left": (220, 0.6), "right": (30, 1.8)}
    features = [Feature("action", "float32", (7,))]
    for side in sides:
        features.append(Feature(f"observation.images.{side}", "image", (32, 32, 3)))
        if side in depth:
            features.append(Feature(f"observation.depth.{side}", "depth", (32, 32)))
    writer = LeRobotWriter(root, 10, features)
    for _ in range(3):
        frames = {"action": np.ones((6, 7), np.float32)}
        for side, (brightness, meters) in sides.items():
            frames[f"observation.images.{side}"] = np.full((6, 32, 32, 3), brightness, np.uint8)
            if side in depth:
                frames[f"observation.depth.{side}"] = np.full((6, 32, 32), meters, np.float32)
        writer.add_episode(frames, "look")
    writer.finalize()
    return root


def test_it_looks_through_several_cameras_and_goes_on_from_an_estimator(tmp_path):
    walls = str(_two_cameras(tmp_path / "walls"))
    config = DepthConfig(
        (walls,),
        tmp_path / "depth",
        camera=("observation.images.left", "observation.images.right"),
        cache=tmp_path / "cache",
        preset="tiny",
        steps=60,
        minutes=None,
        batch_size=8,
        held_out=0.3,
        learning_rate=5e-3,
    )
    mixture = depth_frames(config, preset("tiny"))
    draws = mixture.training(np.arange(24))
    assert np.bincount(draws.episode % 2).tolist() == [12, 12]
    assert mixture.held_out[0].reshape(3, 2).sum(axis=1).tolist().count(2) == 1  # unseen through either
    quality = train_depth(config)
    assert quality.abs_rel < 0.2  # one depth for both would be off by half
    again = replace(config, out=tmp_path / "more", depth_weights=config.out, steps=1, learning_rate=1e-12)
    assert train_depth(again).abs_rel == pytest.approx(quality.abs_rel, rel=1e-4)
    with pytest.raises(CheckpointError, match="no depth estimator of the size"):
        train_depth(replace(again, out=tmp_path / "other", depth_weights=SHIPPED / "nano"))
    with pytest.raises(InputError, match=r"cameras .*left, .*right, not front"):
        depth_frames(replace(config, camera=("front",)), preset("tiny"))


def test_it_learns_from_several_datasets(tmp_path):
    """Of one name, as recordings of one suite have; and one without depth is named."""
    walls = [str(_two_cameras(tmp_path / place / "walls")) for place in ("here", "there")]
    config = DepthConfig(
        tuple(walls),
        tmp_path / "depth",
        camera=("observation.images.left",),
        cache=tmp_path / "cache",
        preset="tiny",
        steps=2,
        minutes=None,
    )
    mixture = depth_frames(config, preset("tiny"))
    draws = mixture.training(np.arange(12 * len(walls)))
    assert np.bincount(draws.source).tolist() == [12, 12]  # two of three episodes of each, one is held out
    train_depth(config)
    blind = _two_cameras(tmp_path / "blind", depth=())
    with pytest.raises(InputError, match=rf"{blind} has no depth to learn from"):
        depth_frames(replace(config, dataset=(*walls, str(blind))), preset("tiny"))
    half = _two_cameras(tmp_path / "half", depth=("left",))
    both = ("observation.images.left", "observation.images.right")
    with pytest.raises(InputError, match=rf"{half} through 'right' has no depth to learn from"):
        depth_frames(replace(config, dataset=(str(half),), camera=both), preset("tiny"))
    with pytest.raises(InputError, match="nothing to train on"):
        replace(config, dataset=())


def test_the_loss_ignores_missing_readings_and_punishes_a_wrong_scale():
    truth = torch.rand(2, 8, 8) + 0.5
    holes = truth.clone()
    holes[:, :4] = 0
    assert depth_loss(truth, holes).item() < 1e-3
    assert depth_loss(2 * truth, truth).item() > 0.5
    predicted = truth.clone()
    predicted[:, :4] = 9
    assert depth_loss(predicted, holes).item() < 1e-3


def test_a_loss_that_is_no_number_ends_the_training_without_weights(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "spatialvla.training.depth_estimator.depth_loss", lambda one, other: one.mean() * torch.inf
    )
    config = DepthConfig(
        (str(dataset),), tmp_path / "depth", cache=tmp_path / "cache", preset="tiny", batch_size=2
    )
    with pytest.raises(InputError, match="The loss of step 1 is inf and its gradients are not finite"):
        train_depth(config)
    assert not list(config.out.glob("*.safetensors"))


def test_an_estimator_of_another_size_is_refused(make_config):
    config = make_config(depth="estimate", depth_mix=0.5, depth_weights=SHIPPED / "nano", steps=2)
    with pytest.raises(CheckpointError, match="no depth estimator of the size of the model's; give another"):
        train(config, device="cpu")


def test_a_policy_s_estimator_is_taken():
    model = SpatialVLA(preset("nano"))
    load_depth(model.vision_zoe_model, Path("nano"))
    shipped = SpatialVLA.from_pretrained("nano").vision_zoe_model.state_dict()
    loaded = model.vision_zoe_model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in shipped.items())


def test_an_rlds_dataset_whose_spec_names_its_depth_is_learned_from(tmp_path):
    steps = {
        "action": np.eye(3, 7, dtype=np.float32),
        "language_instruction": np.array(["go"] * 3),
        "depth": np.full((3, 6, 8), 1500, np.uint16),
    }
    root = write_steps(tmp_path / "rlds", RLDSSpec("mine", 5, actions.seven), steps, kept=(True, True))
    spec = tmp_path / "spec.yaml"
    lines = "name: mine\ncontrol_hz: 5\nimage: observation/image\ninstruction: language_instruction\n"
    spec.write_text(lines)
    config = DepthConfig((str(root),), tmp_path, cache=tmp_path, spec=str(spec))
    with pytest.raises(InputError, match="has no depth to learn from"):
        depth_frames(config, preset("tiny"))
    spec.write_text(lines + "depth: {feature: depth}\n")
    (source,) = depth_frames(config, preset("tiny")).sources
    np.testing.assert_array_equal(source.episode(0).depth([0, 2]), np.full((2, 32, 32), 1.5, np.float32))


def test_crops_are_refused(dataset, tmp_path):
    with pytest.raises(InputError, match="whole images"):
        DepthConfig((str(dataset),), tmp_path, augmentation=Augmentation())

"""Adapters of a network that has grown carry its cameras, its state and its frame, and give them to their base."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spatialvla import Observation, Policy, Processor, SpatialVLA
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.errors import CheckpointError
from spatialvla.geometry.workspace import Workspace
from spatialvla.model.growth import give_inputs
from spatialvla.model.loading import load_unmerged, stored_config
from spatialvla.model.lora import adapter_parameters, add_lora, save_adapter
from spatialvla.model.lora_options import LoraOptions
from spatialvla.training.checkpoints.export import export
from spatialvla.types import CameraImage

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
DATASET = "tiny_robot/0.1.0"
INPUTS = {
    "cameras": ["image", "wrist"],
    "state_size": 3,
    "ego3d_frame": "robot",
    "workspace": {"center": [0.1, 0, 0.5], "scale": 1.5},
}
RNG = np.random.default_rng(0)
IMAGE, WRIST = (RNG.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(2))
K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
POSE = np.array([[0, 0, 1, 0.5], [1, 0, 0, -0.2], [0, 1, 0, 0.3], [0, 0, 0, 1.0]])
SEEN = Observation(
    IMAGE,
    "stop",
    extrinsics=POSE,
    images={"wrist": CameraImage(WRIST, K, extrinsics=POSE)},
    state=np.array([0.1, -0.3, 0.7]),
)


def trained(config) -> SpatialVLA:
    """A model with an adapter that does something."""
    torch.manual_seed(0)
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    give_inputs(model, config)
    add_lora(model, CHECKPOINT, LoraOptions(rank=4))
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def saved(tmp_path):
    model = trained(SpatialVLA.from_pretrained(CHECKPOINT).config.with_inputs(INPUTS))
    processor = replace(
        Processor.from_pretrained(CHECKPOINT),
        camera_names=("image", "wrist"),
        state_names=("x", "y", "z"),
        state_statistics={DATASET: StateStatistics(np.full(3, -1.0), np.full(3, 1.0))},
    )
    folder = tmp_path / "adapter"
    save_adapter(model, folder)
    processor.save_pretrained(folder)
    return model, processor, folder


@torch.no_grad()
def logits(model, processor) -> torch.Tensor:
    policy = Policy(model, processor, dataset=DATASET)
    return model(processor.collate([policy.prepare(SEEN)])).logits


def test_the_adapter_gives_its_base_what_it_was_trained_with(saved):
    model, processor, folder = saved
    for loaded in (
        load_unmerged(SpatialVLA, folder, torch.float32).eval(),
        SpatialVLA.from_pretrained(folder),
    ):
        assert loaded.config == model.config
        torch.testing.assert_close(logits(loaded, processor), logits(model, processor), atol=1e-4, rtol=0)
    assert stored_config(folder) == model.config
    assert model.config.workspace == Workspace((0.1, 0.0, 0.5), 1.5)
    policy = Policy.from_pretrained(folder, dataset=DATASET)
    assert (policy.camera_names, policy.state_names) == (("image", "wrist"), ("x", "y", "z"))


def test_the_new_projector_is_trained_whole_and_the_old_weights_are_not(saved):
    model, _, folder = saved
    whole = [name for name in adapter_parameters(model) if "lora_" not in name]
    assert whole == [
        f"base_model.model.state_projector.{layer}" for layer in ("0.weight", "0.bias", "2.weight", "2.bias")
    ]
    # What it makes of a state is the adapter's, not drawn anew when it is loaded.
    loaded = SpatialVLA.from_pretrained(folder)
    for ours, theirs in zip(
        loaded.state_projector.parameters(), model.state_projector.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_merged_it_is_a_whole_checkpoint(saved, tmp_path):
    model, processor, folder = saved
    export(folder, tmp_path / "merged", merge=True)
    policy = Policy.from_pretrained(tmp_path / "merged", dataset=DATASET)
    assert policy.model.config.inputs == model.config.inputs
    torch.testing.assert_close(
        logits(policy.model, policy.processor), logits(model, processor), atol=1e-4, rtol=0
    )


def test_an_adapter_that_changed_nothing_says_nothing(tmp_path):
    model = trained(SpatialVLA.from_pretrained(CHECKPOINT).config)
    save_adapter(model, tmp_path)
    assert "spatialvla_inputs" not in json.loads((tmp_path / "adapter_config.json").read_text())


def test_a_base_that_had_grown_keeps_its_frame_unless_the_adapter_changes_it(saved, tmp_path):
    """The published frame is written, too, where it is not the base's."""
    _, processor, folder = saved
    export(folder, tmp_path / "base", merge=True)
    for frame in ("robot", "camera"):
        model = SpatialVLA.from_pretrained(tmp_path / "base")
        give_inputs(model, model.config.replace(ego3d_frame=frame))
        add_lora(model, tmp_path / "base", LoraOptions(rank=4))
        assert {name.split(".")[2] for name in adapter_parameters(model) if "lora_" not in name} == {
            "state_projector"
        }
        save_adapter(model, tmp_path / frame)
        processor.save_pretrained(tmp_path / frame)
        assert stored_config(tmp_path / frame).ego3d_frame == frame
        assert SpatialVLA.from_pretrained(tmp_path / frame).config.inputs == INPUTS | {
            "ego3d_frame": frame,
            "workspace": {"center": (0.1, 0.0, 0.5), "scale": 1.5},
        }


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"cameras": ["wrist", "image"]}, "belongs to another base: it has the cameras wrist, image"),
        ({"cameras": "image"}, "cameras is no list"),
        ({"cameras": ["image", "image"]}, "names one twice"),
        ({"state_size": -1}, "not 0 to 1000"),
        ({"state_size": "three"}, "spatialvla_inputs cannot be used"),
        ({"frame": "robot"}, "spatialvla_inputs cannot be used"),
        (3, "spatialvla_inputs cannot be used"),
    ],
)
def test_what_cannot_be_is_one_sentence(saved, entry, sentence):
    _, _, folder = saved
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spatialvla_inputs": entry}))
    with pytest.raises(CheckpointError, match=sentence):
        stored_config(folder)


def test_an_edited_entry_is_noticed_by_what_the_tensors_were_trained_with(saved):
    _, _, folder = saved
    path = folder / "adapter_config.json"
    raw = json.loads(path.read_text())
    path.write_text(
        json.dumps(raw | {"spatialvla_inputs": raw["spatialvla_inputs"] | {"ego3d_frame": "camera"}})
    )
    with pytest.raises(CheckpointError, match=r"spatialvla_inputs.*was trained with"):
        SpatialVLA.from_pretrained(folder)

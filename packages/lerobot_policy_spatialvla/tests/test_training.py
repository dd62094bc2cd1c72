"""lerobot-train, unmodified: on depth, resumed, adapters, adaptation; and spatialvla loads what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.policies.factory import get_policy_class
from safetensors.torch import load_file

from conftest import CHECKPOINT, DEPTH, WIDOWX
from spatialvla import Observation, Policy
from spatialvla.cli.main import main
from spatialvla.errors import InputError

START = f"--policy.start.policy={CHECKPOINT}"
AS_THEY_ARE = [
    "--policy.augmentation.min_crop_area=1",
    *(f"--policy.augmentation.{name}=0" for name in ("brightness", "contrast", "saturation", "hue")),
]
"""No augmentation: LeRobot draws other random numbers in a run that is resumed."""


def tensors(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / name)


def test_a_checkpoint_learns_and_every_verb_loads_the_result(tmp_path, train, mapping, capsys):
    folder = train(
        tmp_path / "run",
        WIDOWX,
        "--policy.type=spatialvla",
        START,
        f"--policy.mapping={mapping}",
        "--steps=20",
    )
    before, after = load_file(CHECKPOINT / "model.safetensors"), tensors(folder)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "language_model.model.layers.0.mlp.up_proj.weight" in changed
    assert not any(name.startswith("vision_zoe_model.") for name in changed)

    picture = tmp_path / "picture.png"
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 120, np.uint8)).save(picture)
    words = ["predict", str(picture), "pick", "--policy", str(folder), "--json"]
    main(words)
    said = json.loads(capsys.readouterr().out)
    policy = Policy.from_pretrained(folder)
    assert policy.dataset == "lab/lerobot_v3"
    assert policy.units.meters == 1.0
    expected = policy.predict([Observation(Image.open(picture), "pick")])[0].actions
    np.testing.assert_allclose(said["actions"], expected, atol=1e-6)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path, train, mapping):
    words = (
        "--policy.type=spatialvla",
        START,
        f"--policy.mapping={mapping}",
        "--steps=6",
        "--save_freq=3",
        *AS_THEY_ARE,
    )
    whole = train(tmp_path / "whole", WIDOWX, *words)
    middle = tmp_path / "whole" / "checkpoints" / "000003" / "pretrained_model"
    expected = tensors(whole)
    mapping.unlink()
    again = train(tmp_path / "whole", None, f"--config_path={middle / 'train_config.json'}", "--resume=true")
    got = tensors(again)
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert any(not torch.equal(expected[name], value) for name, value in tensors(middle).items())


def test_depth_of_a_sensor_is_seen(tmp_path, train):
    folder = train(
        tmp_path / "run",
        DEPTH,
        "--policy.type=spatialvla",
        START,
        f"--policy.mapping={_mapping(tmp_path, 'image: observation.images.top')}",
        "--policy.objective.depth=sensor",
        "--steps=20",
    )
    assert tensors(folder)


def test_lora_adds_adapters_that_are_resumed_and_loaded(tmp_path, train, mapping):
    words = (
        "--policy.type=spatialvla",
        START,
        f"--policy.mapping={mapping}",
        "--steps=4",
        "--save_freq=2",
        *AS_THEY_ARE,
    )
    folder = train(tmp_path / "run", WIDOWX, *words, "--peft.method_type=LORA", "--peft.r=4")
    config = json.loads((folder / "model" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    expected = tensors(folder, "adapter_model.safetensors")
    assert all("lora_" in name for name in expected)
    middle = tmp_path / "run" / "checkpoints" / "000002" / "pretrained_model"
    again = train(tmp_path / "run", None, f"--config_path={middle / 'train_config.json'}", "--resume=true")
    got = tensors(again, "adapter_model.safetensors")
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    merged = Policy.from_pretrained(folder)
    loaded = get_policy_class("spatialvla").from_pretrained(folder)
    ours, theirs = merged.model.state_dict(), loaded.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    start = f"--policy.start.policy={folder / 'model'}"
    further = train(tmp_path / "further", WIDOWX, "--policy.type=spatialvla", start, words[2], "--steps=1")
    assert not (further / "model" / "adapter_config.json").exists()


def test_adapt_carries_the_policy_over_to_the_grid_of_the_dataset(tmp_path, train, mapping):
    folder = train(
        tmp_path / "run",
        WIDOWX,
        "--policy.type=spatialvla",
        START,
        f"--policy.mapping={mapping}",
        "--policy.adaptation.mode=adapt",
        "--steps=2",
    )
    before = json.loads((CHECKPOINT / "processor_config.json").read_text())
    after = json.loads((folder / "model" / "processor_config.json").read_text())
    assert before["bin_policy"] != after["bin_policy"]
    old, new = load_file(CHECKPOINT / "model.safetensors"), tensors(folder)
    changed = {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert changed <= {"spatial_embed_tokens", "position_embedding_3d", "language_model"}
    assert "spatial_embed_tokens" in changed


def test_another_dataset_continues_a_policy_of_lerobots(tmp_path, train, mapping):
    words = ("--policy.type=spatialvla", START, f"--policy.mapping={mapping}", "--steps=1")
    first = train(tmp_path / "first", WIDOWX, *words)
    lines = _mapping(tmp_path, "image: observation.images.top")
    second = train(
        tmp_path / "second", DEPTH, f"--policy.path={first}", f"--policy.mapping={lines}", "--steps=1"
    )
    policy = Policy.from_pretrained(second)
    assert policy.dataset == "lab/lerobot_v3_depth"
    assert "lab/lerobot_v3" in policy.processor.statistics


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("image: observation.images.top", "trained on grippers from"),
        ("gripper: {min: -1, max: 1}", "there are the cameras"),
        ("image: observation.images.top\naction: {convention: absolute}", "chunks of 'action' alone"),
        ("image: observation.images.top\ndrop_no_ops: true", "draws every frame"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_the_first_step(tmp_path, train, lines, said):
    with pytest.raises(InputError, match=said):
        train(
            tmp_path / "run",
            WIDOWX,
            "--policy.type=spatialvla",
            START,
            f"--policy.mapping={_mapping(tmp_path, lines)}",
            "--steps=1",
        )


def _mapping(folder: Path, lines: str) -> Path:
    path = folder / "lines.yaml"
    path.write_text(lines)
    return path

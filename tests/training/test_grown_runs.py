"""Runs that give a policy more cameras and a state: at first nothing changes, then what they tell is learned."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from told_dataset import FRONT_POSE, GRAY, STATES, WAYS, WRIST_POSE, K, wrist_picture, write_told
from torch.nn import functional as F

from spatialvla import CameraImage, Observation, Policy, Processor, SpatialVLA
from spatialvla.cli.finetune import Finetune
from spatialvla.cli.main import main
from spatialvla.cli.train import Train
from spatialvla.errors import InputError
from spatialvla.geometry.camera import View
from spatialvla.model.loading import load_unmerged
from spatialvla.model.lora_options import LoraOptions
from spatialvla.model.presets import spatialvla_4b
from spatialvla.model.published import published_tensors
from spatialvla.training.checkpoints.export import export
from spatialvla.training.config import DatasetConfig
from spatialvla.training.feed.datasets import open_mixture
from spatialvla.training.loop import train
from spatialvla.training.parallel.world import World
from spatialvla.training.run.progress import Progress
from spatialvla.training.start.build import build, network_config
from spatialvla.training.start.inputs import with_inputs

PUBLISHED, OLD = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint", "tiny_robot/0.1.0"
CAMERA = "observation.images.front"
DEPTH = np.full((32, 32), 1.2, np.float32)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """By what tells the way, a dataset in which nothing else does."""
    root = tmp_path_factory.mktemp("told")
    return {part: write_told(root / part, part) for part in ("wrist", "state")}


def front(folder) -> DatasetConfig:
    return DatasetConfig(str(folder), camera=CAMERA)


@pytest.fixture
def grown(make_config, start, told):
    """(**changes) -> the configuration of a run that gives the policy a wrist camera and a state."""

    def make(part="wrist", **changes):
        settings = {
            "datasets": (front(told[part]),),
            "policy": str(start),
            "add_camera": ("wrist",),
            "add_state": 3,
            "held_out": 0.0,
            "precision": "fp32",
            "steps": 2,
        }
        return make_config(**settings | changes)

    return make


def opened(config):
    return open_mixture(config, network_config(config), World(), Progress(config, None))


def built(config):
    mixture = opened(config)
    torch.manual_seed(config.seed)
    return build(config, mixture)


def rows(processor, key, wrist=None, states=None, poses=False):
    """A batch of one sample of each way."""
    view = View.of(np.zeros_like(GRAY), K, DEPTH, WRIST_POSE if poses else None)
    actions = np.zeros((4, processor.action_chunk_size, 7))
    actions[..., :3], actions[..., 6] = WAYS[:, None], 1
    return processor(
        [GRAY] * 4,
        ["go"] * 4,
        key,
        intrinsics=[K] * 4,
        depth=[DEPTH] * 4,
        extrinsics=[FRONT_POSE] * 4 if poses else None,
        other_views=None if wrist is None else [{"wrist": replace(view, image=wrist_picture(way))} for way in wrist],
        states=states,
        actions=actions,
    )  # fmt: skip


@torch.no_grad()
def first_losses(model, batch) -> torch.Tensor:
    """Of the first token of each row, which nothing before it tells."""
    output = model.training_loss(batch)
    return F.cross_entropy(output.logits, output.labels, reduction="none").view(len(batch), -1)[:, 0]


def seen(**more) -> Observation:
    return Observation(GRAY, "go", intrinsics=K, depth=DEPTH, **more)


PUBLISHED_PLACE = {"ego3d_frame": "robot", "workspace": (0.0, 0.0, 2.0, 2.0)}


@pytest.mark.parametrize(
    "changes",
    [{}, {"mode": "lora"}, PUBLISHED_PLACE, {"mode": "lora"} | PUBLISHED_PLACE],
    ids=["full", "lora", "full robot", "lora robot"],
)
def test_at_first_it_says_what_the_policy_says(grown, start, changes):
    """In the robot's frame, too, where that is the camera's own and the workspace is kept."""
    model, processor = built(grown(**changes))
    policy = Policy.from_pretrained(start, dataset="squares")
    in_robot = "ego3d_frame" in changes
    row = seen(extrinsics=np.eye(4)) if in_robot else seen()
    mine = Policy(model.eval(), processor, dataset="squares")
    with torch.no_grad():
        found = model(processor.collate([mine.prepare(row)])).logits
        expected = policy.model(policy.processor.collate([policy.prepare(seen())])).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (mine.camera_names, mine.state_names) == (("image", "wrist"), ()), "squares has no state"
    assert processor.state_names == ("state_0", "state_1", "state_2")
    assert processor.state_statistics["wrist"].size == 3
    np.testing.assert_array_equal(processor.other_cameras["wrist"]["wrist"].intrinsics, K)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_published_checkpoint_says_what_it_said(grown, mode):
    """With all options of the command that gives it a wrist camera, a state and the robot's frame."""
    model, processor = built(grown(policy=str(PUBLISHED), mode=mode, **PUBLISHED_PLACE))
    policy = Policy.from_pretrained(PUBLISHED, dataset=OLD)
    mine = Policy(model.eval(), processor, dataset=OLD)
    with torch.no_grad():
        found = model(processor.collate([mine.prepare(seen(extrinsics=np.eye(4)))])).logits
        expected = policy.model(policy.processor.collate([policy.prepare(seen())])).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert {OLD, "wrist"} < set(processor.statistics)
    layout = {key.partition(".lora_")[0] for key in published_tensors(model) if ".lora_" not in key}
    new = {f"state_projector.{layer}" for layer in ("0.weight", "0.bias", "2.weight", "2.bias")}
    assert {key.replace(".base_layer", "") for key in layout} == {*published_tensors(policy.model), *new}


def test_the_published_size_gets_a_few_tensors_more():
    with torch.device("meta"):
        before = published_tensors(SpatialVLA(spatialvla_4b()))
        after = published_tensors(
            SpatialVLA(spatialvla_4b().replace(cameras=("image", "wrist"), state_size=8))
        )
    new = {key: tuple(tensor.shape) for key, tensor in after.items() if key not in before}
    assert new == {
        "state_projector.0.weight": (2304, 8),
        "state_projector.0.bias": (2304,),
        "state_projector.2.weight": (2304, 2304),
        "state_projector.2.bias": (2304,),
    }
    assert before.keys() < after.keys()


@pytest.mark.parametrize("part", ["wrist", "state"])
def test_what_only_the_new_part_tells_is_learned(grown, part):
    """Who cannot see it has four equal samples of four ways: no less than log 4, whatever is learned."""
    config = grown(part, steps=200, learning_rate=5e-3, log_every=1000)
    result = train(config, device="cpu")
    policy = Policy.from_pretrained(result.model)
    assert policy.dataset == part
    wrist, states = (range(4), STATES[[3] * 4]) if part == "wrist" else ([3] * 4, STATES)
    model, processor = policy.model, policy.processor
    assert first_losses(model, rows(processor, part, wrist, states)).mean() < 0.5 * math.log(4)
    other = {"states": states} if part == "wrist" else {"wrist": wrist}
    assert first_losses(model, rows(processor, part, **other)).mean() > math.log(4) - 1e-5


def test_an_adapter_carries_the_new_parts(grown, told, tmp_path):
    config = grown(
        "state", mode="lora", lora=LoraOptions(rank=4), ego3d_frame="robot", learning_rate=1e-2, steps=3
    )
    first, processor = built(config)
    result = train(config, device="cpu")
    policy = Policy.from_pretrained(result.model)
    assert (policy.camera_names, policy.state_names) == (("image", "wrist"), processor.state_names)
    assert policy.model.config.inputs == first.config.inputs
    assert policy.model.config.ego3d_frame == "robot"
    for before, after in zip(
        first.state_projector.parameters(), policy.model.state_projector.parameters(), strict=True
    ):
        assert not torch.equal(before, after)
    apart = load_unmerged(SpatialVLA, result.model, torch.float32).eval()
    batch = rows(policy.processor, "state", range(4), STATES, poses=True)
    torch.testing.assert_close(
        first_losses(apart, batch), first_losses(policy.model, batch), atol=1e-4, rtol=0
    )
    export(result.model, tmp_path / "merged", merge=True)
    merged = Policy.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(
        first_losses(merged.model, batch), first_losses(apart, batch), atol=1e-4, rtol=0
    )
    # What goes on from it has its parts already.
    again = grown(
        "state", policy=str(tmp_path / "merged"), add_camera=(), add_state=0, out=tmp_path / "again"
    )
    assert network_config(again).inputs == policy.model.config.inputs
    with pytest.raises(InputError, match="has a camera wrist already"):
        network_config(replace(again, add_camera=("wrist",)))
    with pytest.raises(InputError, match="has 3 numbers already and cannot get 8"):
        network_config(replace(again, add_state=8))


@pytest.mark.parametrize("mode", ["adapt", "full"])
def test_a_new_grid_and_new_parts_go_together(grown, mode):
    config = grown("state", mode=mode, new_grid=mode == "full", min_sigma=0.5, learning_rate=1e-2)
    first, _ = built(config)
    policy = Policy.from_pretrained(train(config, device="cpu").model)
    assert policy.camera_names == ("image", "wrist")
    changed = {
        name.split(".")[0]
        for (name, before), after in zip(first.named_parameters(), policy.model.parameters(), strict=True)
        if not torch.equal(before, after)
    }
    assert "state_projector" in changed
    assert ("vision_tower" in changed) == (mode == "full")


def test_a_policy_keeps_what_a_dataset_lacks(grown, tmp_path):
    """What it had is hidden where the new data has none; what is asked for has to be there."""
    both = train(grown(), device="cpu").model
    blind = front(write_told(tmp_path / "blind", wrist=False))
    config = grown(policy=str(both), add_camera=(), add_state=0, datasets=(blind,), out=tmp_path / "again")
    policy = Policy.from_pretrained(train(config, device="cpu").model)
    assert policy.camera_names == ("image", "wrist")
    assert set(policy.processor.state_statistics) == {"wrist", "blind"}
    assert set(policy.processor.other_cameras["wrist"]) == {"wrist"}
    wrist = CameraImage(wrist_picture(0), K, depth=DEPTH)
    assert policy.act(seen(images={"wrist": wrist}, state=STATES[0])).actions.shape == (2, 7)
    with pytest.raises(InputError, match="None of the datasets has the camera 'side'"):
        train(replace(config, add_camera=("side",), out=tmp_path / "side"), device="cpu")
    with pytest.raises(InputError, match=r"state of blind has 3 numbers .*, and the policy takes 8"):
        train(grown(add_state=8, datasets=(blind,), add_camera=(), out=tmp_path / "eight"), device="cpu")


def test_a_new_network_sees_what_it_is_told_to(make_config, told, tmp_path):
    config = make_config(
        datasets=(front(told["wrist"]),),
        cameras=("front", "wrist"),
        state=True,
        steps=2,
        ego3d_frame="robot",
        min_sigma=0.5,
    )
    policy = Policy.from_pretrained(train(config, device="cpu").model)
    assert (policy.camera_names, len(policy.state_names)) == (("front", "wrist"), 3)
    images = {
        "front": CameraImage(GRAY, K, extrinsics=FRONT_POSE, depth=DEPTH),
        "wrist": CameraImage(wrist_picture(1), K, extrinsics=WRIST_POSE, depth=DEPTH),
    }
    assert policy.act(Observation(instruction="go", images=images, state=STATES[1])).actions.shape == (2, 7)
    mute = replace(front(told["wrist"]), mapping=tmp_path / "mute.yaml")
    (tmp_path / "mute.yaml").write_text("state: none\n")
    with pytest.raises(InputError, match="None of the datasets has the arm's state"):
        train(replace(config, datasets=(mute,), out=tmp_path / "mute"), device="cpu")


def test_states_that_are_called_otherwise_are_told(grown, told, tmp_path):
    (tmp_path / "other.yaml").write_text("state: {feature: observation.state, indices: [2, 1, 0]}\n")
    other = DatasetConfig(str(told["state"]), camera=CAMERA, key="other", mapping=tmp_path / "other.yaml")
    config = grown("state", datasets=(front(told["state"]), other))
    (sentence,) = opened(config).left_out
    assert "other: state_2, state_1, state_0). The policy will call them as the first does" in sentence
    assert opened(grown("state")).left_out == ()


def test_a_state_that_a_policy_called_otherwise_is_told(grown, caplog):
    config = grown("state")
    mixture, network = opened(config), network_config(config)
    processor = replace(Processor.from_pretrained(PUBLISHED), state_names=("a", "b", "c"))
    found = with_inputs(processor, network, mixture)
    assert found.state_names == mixture.state_names
    assert "policy's state was a, b, c, and the datasets' is state_0, state_1, state_2." in caplog.text
    caplog.clear()
    with_inputs(found, network, mixture)
    assert not caplog.text


def test_the_command_line_gives_the_same_run(told, start, tmp_path):
    words = [
        "--policy",
        str(start),
        "--dataset",
        str(told["wrist"]),
        "--camera",
        CAMERA,
        "--out",
        str(tmp_path / "run"),
    ]
    words += [
        "--mode",
        "full",
        "--steps",
        "1",
        "--cache",
        str(tmp_path / "cache"),
        "--depth",
        "sensor",
        "--in-memory",
    ]
    given = ["--add-camera", "wrist", "--add-state", "3", "--ego3d-frame", "robot"]
    dropout = ["--camera-dropout", "0.2", "--state-dropout", "0.1"]
    config = Finetune.parse([*words, *given, *dropout], "spatialvla finetune").configuration()
    assert (config.add_camera, config.add_state, config.ego3d_frame) == (("wrist",), 3, "robot")
    assert (config.camera_dropout, config.state_dropout) == (0.2, 0.1)
    twice = Finetune.parse([*words, *given, "--add-camera", "side"], "spatialvla finetune").configuration()
    assert (twice.add_camera, twice.add_state) == (("wrist", "side"), 3)
    main(["finetune", *words, *given, *dropout])
    policy = Policy.from_pretrained(tmp_path / "run")
    assert (policy.camera_names, len(policy.state_names), policy.needs_extrinsics) == (
        ("image", "wrist"),
        3,
        True,
    )
    new = ["--dataset", str(told["wrist"]), "--cameras", "image", "wrist", "--state"]
    config = Train.parse([*new, "--out", str(tmp_path / "new")], "spatialvla train").configuration()
    assert (config.cameras, config.state, config.add_camera) == (("image", "wrist"), True, ())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policy": None}, "add_camera and add_state are for a policy"),
        ({"cameras": ("image", "wrist")}, "cameras and state are for a new network"),
        ({"state": True}, "cameras and state are for a new network"),
        ({"add_state": -1}, "add_state must be 0 or more"),
        ({"camera_dropout": 1.5}, "camera_dropout is a fraction"),
        ({"state_dropout": -0.1}, "state_dropout is a fraction"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(grown, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        grown(**changes)


def test_a_policy_of_one_camera_is_still_the_published_one(make_config, start):
    model, processor = built(make_config(policy=str(start)))
    assert model.config.inputs == SpatialVLA.from_pretrained(start).config.inputs
    assert (processor.camera_names, processor.state_names) == (("image",), ())
    before, after = Processor.from_pretrained(start).to_json().keys(), processor.to_json().keys()
    assert set(after) == {*before, "default_dataset"}

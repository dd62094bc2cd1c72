"""The policy against spatialvla's own: the same actions and losses, to the last bit, from the same frames."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, RTCAttentionSchedule
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.policies.rtc import ActionQueue
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference.rtc import supports_rtc_inference

from conftest import CHECKPOINT, DEPTH, WIDOWX
from lerobot_policy_spatialvla import SpatialVLAConfig
from spatialvla import Observation, Policy
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.batches import Batches
from spatialvla.data.draws import Draws
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.samples import ReadOptions
from spatialvla.data.sources import open_source
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import InputError
from spatialvla.execution import Execution
from spatialvla.training.options import ObjectiveOptions, StartOptions
from spatialvla.types import CameraImage

CAMERA = "observation.images.top"
INTRINSICS = "intrinsics: {K: [[230, 0, 128], [0, 230, 128], [0, 0, 1]], height: 256, width: 256}"
UNITS = "{meters: 1.0, radians: 1.0, rotation: euler, frame: base}"
TASK = "open the drawer"


def lines(folder: Path, text: str) -> str:
    path = folder / "mapping.yaml"
    path.write_text(f"image: {CAMERA}\nunits: {UNITS}\n{text}")
    return str(path)


def begun(dataset: Path, mapping: str, **options: Any) -> Any:
    """A policy as lerobot-train begins one, and its configuration."""
    options = {"start": StartOptions(policy=str(CHECKPOINT)), **options}
    config = SpatialVLAConfig(device="cpu", mapping=mapping, **options)
    data = LeRobotDatasetMetadata(f"lab/{dataset.name}", root=dataset)
    return make_policy(config, ds_meta=data)


def batch_of(dataset: Path, config: SpatialVLAConfig, frames: list[int], unit: str = "m") -> dict[str, Any]:
    """What LeRobot's loop gives to the policy for some frames."""
    data = LeRobotDatasetMetadata(f"lab/{dataset.name}", root=dataset)
    opened = LeRobotDataset(
        data.repo_id,
        root=dataset,
        delta_timestamps=resolve_delta_timestamps(config, data),
        video_backend="pyav",
        depth_output_unit=unit,
    )
    batch = torch.utils.data.default_collate([opened[frame] for frame in frames])
    preprocessor, _ = make_pre_post_processors(config, dataset_stats=data.stats)
    return dict(preprocessor(batch))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("depth", ["estimate", "sensor"])
def test_the_loss_is_that_of_spatialvla_on_the_same_frames(tmp_path, depth):
    key, lengths = "lab/lerobot_v3_depth", LeRobotSource(DEPTH, FeatureMapping(CAMERA)).dataset.lengths
    ends = np.cumsum(lengths)
    frames = [0, 5, int(ends[0]) - 1, int(ends[-1]) - 1]  # the last chunks end early
    mapping = lines(tmp_path, "")
    policy = begun(DEPTH, mapping, objective=ObjectiveOptions(depth=depth), depth_unit="m").eval()
    loss, numbers = policy.forward(batch_of(DEPTH, policy.config, frames))

    described = replace(FeatureMapping.load(mapping), key=key)
    source = open_source(DEPTH, mapping=described, cameras=(), state=False)
    mixture = TrainingMixture.open([source])
    episodes = np.searchsorted(ends, frames, side="right")
    drawn = Draws(np.zeros(4, np.int64), episodes, np.array(frames) - (ends - lengths)[episodes])
    options = ReadOptions(Augmentation.off(), depth=depth == "sensor")
    batches = Batches(mixture, lambda numbers: drawn, policy.processor, options)
    expected = policy.model.training_loss(batches.batch([0, 1, 2, 3]).batch).loss
    if depth == "estimate":
        assert torch.equal(loss, expected)
    else:  # LeRobot's meters differ from ours by rounding
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert set(numbers) >= {"accuracy/translation", "l1/gripper"}


@pytest.mark.parametrize("depth", ["estimate", "sensor"])
def test_actions_are_those_of_spatialvla_on_the_same_observation(tmp_path, depth):
    mapping = lines(tmp_path, "intrinsics: {K: [[60, 0, 32], [0, 60, 24], [0, 0, 1]], height: 48, width: 64}")
    policy = begun(DEPTH, mapping, objective=ObjectiveOptions(depth=depth)).eval()
    frames = [3, 14]
    batch = batch_of(DEPTH, policy.config, frames, "mm")
    batch = {name: value for name, value in batch.items() if not name.startswith("action")}
    got = policy.predict_action_chunk(batch)

    ours = Policy(policy.model, policy.processor, dataset="lab/lerobot_v3_depth")
    pictures = (batch["observation.images.top"] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    readings = batch["observation.images.top_depth"][:, 0].numpy() * np.float32(1e-3)
    readings[readings <= np.float32(0.01)] = 0  # so the sensor's video says that there is no reading
    expected = ours.predict(
        [
            Observation(
                picture,
                task,
                np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]),
                depth=reading if depth == "sensor" else None,
            )
            for picture, task, reading in zip(pictures, batch["task"], readings, strict=True)
        ]
    )
    assert got.shape == (2, 2, 7)
    np.testing.assert_array_equal(got.numpy(), np.stack([one.actions for one in expected]).astype(np.float32))
    first, second, third = (policy.select_action(batch) for _ in range(3))
    assert torch.equal(torch.stack([first, second], dim=1), got)
    assert torch.equal(third, first)


def test_a_gripper_and_units_that_the_mapping_names_are_told_back(tmp_path):
    policy = begun(WIDOWX, lines(tmp_path, "gripper: {min: -1, max: 1, open: 0}")).eval()
    batch = batch_of(WIDOWX, policy.config, [5])
    got = policy.predict_action_chunk(batch)[0].numpy()
    (ours,) = Policy(policy.model, policy.processor).predict(
        [
            Observation(
                (batch["observation.images.top"][0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(),
                batch["task"][0],
            )
        ]
    )
    np.testing.assert_allclose(got[:, 6], 1 - 2 * ours.actions[:, 6], atol=1e-6)
    np.testing.assert_array_equal(got[:, :6], ours.actions[:, :6].astype(np.float32))


CALIBRATION = """\
cameras:
  top:
    K: [[60, 0, 32], [0, 60, 24], [0, 0, 1]]
    height: 48
    width: 64
    extrinsics: [[0, -1, 0, 0.5], [-1, 0, 0, 0.1], [0, 0, -1, 0.9], [0, 0, 0, 1]]
"""


def test_cameras_state_and_calibration_are_seen_and_kept(tmp_path):
    (tmp_path / "robot.yaml").write_text(CALIBRATION)
    wrist = "cameras: {wrist: {image: observation.images.wrist, extrinsics: {matrix: [[1, 0, 0, 0.1], [0, 1, 0, 0],"
    wrist += (
        " [0, 0, 1, 0.2], [0, 0, 0, 1]]}, intrinsics: {K: [[50, 0, 32], [0, 50, 24], [0, 0, 1]], height: 48,"
    )
    mapping = lines(tmp_path, f"calibration: robot.yaml\n{wrist} width: 64}}}}}}")
    start = StartOptions(policy=str(CHECKPOINT), ego3d_frame="robot", add_camera=("wrist",), add_state=8)
    policy = begun(DEPTH, mapping, start=start).eval()
    batch = batch_of(DEPTH, policy.config, [3])
    got = policy.predict_action_chunk(batch)

    pictures = {
        name: (batch[f"observation.images.{name}"][0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        for name in ("top", "wrist")
    }
    beside = np.eye(4)
    beside[:3, 3] = 0.1, 0, 0.2
    above = np.array([[0, -1, 0, 0.5], [-1, 0, 0, 0.1], [0, 0, -1, 0.9], [0, 0, 0, 1]])
    observation = Observation(
        pictures["top"],
        batch["task"][0],
        np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]),
        extrinsics=above,
        images={
            "wrist": CameraImage(
                pictures["wrist"], np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]), extrinsics=beside
            )
        },
        state=batch["observation.state"][0].double().numpy(),
    )
    (expected,) = Policy(policy.model, policy.processor).predict([observation])
    np.testing.assert_array_equal(got[0].numpy(), expected.actions.astype(np.float32))

    policy.save_pretrained(tmp_path / "kept")
    for name in ("robot.yaml", "mapping.yaml"):
        (tmp_path / name).unlink()
    again = type(policy).from_pretrained(tmp_path / "kept")
    assert torch.equal(again.predict_action_chunk(batch), got)
    alone = {name: value for name, value in batch.items() if "wrist" not in name and "state" not in name}
    with pytest.raises(InputError, match=r"observation\.images\.wrist"):
        again.predict_action_chunk(alone)  # the mapping names it


def test_a_network_begins_with_random_weights(tmp_path):
    policy = begun(
        WIDOWX, lines(tmp_path, f"gripper: {{min: -1, max: 1}}\n{INTRINSICS}"), start=StartOptions()
    )
    loss, _ = policy.forward(batch_of(WIDOWX, policy.config, [5, 70]))
    assert 7 < float(loss) < 9  # about the logarithm of the vocabulary's size


def test_it_is_saved_with_its_mapping_and_loaded_from_the_hub(tmp_path, monkeypatch):
    policy = begun(WIDOWX, lines(tmp_path, "gripper: {min: -1, max: 1, open: 0}")).eval()
    (tmp_path / "mapping.yaml").unlink()
    hub = tmp_path / "hub"

    class Api:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Url", (), {"repo_id": repo_id})()

        def upload_folder(self, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, hub / repo_id)
            return "https://hub"

    monkeypatch.setattr("lerobot.utils.hub.HfApi", Api)
    monkeypatch.setattr("spatialvla.model.folders.snapshot_download", lambda repo_id, **_: str(hub / repo_id))
    policy.push_to_hub("robots/tiny")
    again = type(policy).from_pretrained("robots/tiny")
    batch = batch_of(WIDOWX, policy.config, [5, 80])
    assert torch.equal(again.predict_action_chunk(batch), policy.predict_action_chunk(batch))
    assert Policy.from_pretrained("robots/tiny").dataset == "lab/lerobot_v3"
    assert again.config.described == policy.config.described


def test_a_chunk_goes_on_from_the_steps_that_lerobot_is_executing(tmp_path):
    policy = begun(WIDOWX, lines(tmp_path, "gripper: {min: -1, max: 1, open: 0}")).eval()
    assert supports_rtc_inference(policy)
    batch = batch_of(WIDOWX, policy.config, [5])
    rtc = RTCConfig(execution_horizon=10, prefix_attention_schedule=RTCAttentionSchedule.LINEAR)
    queue = ActionQueue(rtc)
    # Of cells that the model would not have chosen by itself.
    tokens = np.array([[[kind[0] + step for kind in policy.processor.grid.ranges] for step in (1, 0)]])
    chunk = policy.processor.actions(tokens, "lab/lerobot_v3")
    before = torch.tensor(chunk, dtype=torch.float32)
    before[..., 6] = 1 - 2 * before[..., 6]
    queue.merge(before[0], before[0], 0)
    left = torch.zeros(10, 7)  # as LeRobot fills up what is left
    left[:2] = queue.get_left_over()
    free = policy.predict_action_chunk(batch, inference_delay=1, prev_chunk_left_over=left)
    assert not torch.equal(free[0, 0], before[0, 0])
    policy.config.rtc_config = rtc
    for delay in (1, 5):  # one step is always left to decide on
        got = policy.predict_action_chunk(batch, inference_delay=delay, prev_chunk_left_over=left)
        assert torch.equal(got[0, 0], before[0, 0])
    assert torch.equal(policy.predict_action_chunk(batch, inference_delay=0, prev_chunk_left_over=left), free)


def test_execution_is_spatialvlas(tmp_path):
    policy = begun(
        WIDOWX, lines(tmp_path, "gripper: {min: -1, max: 1}"), execution=Execution("receding", 1)
    ).eval()
    batches = [batch_of(WIDOWX, policy.config, [frame]) for frame in (5, 80)]
    got = [policy.select_action(batch) for batch in batches]
    assert all(
        torch.equal(action, policy.predict_action_chunk(batch)[:, 0])
        for action, batch in zip(got, batches, strict=True)
    )


def published(**options: Any) -> Any:
    """The checkpoint itself, as lerobot-eval makes a policy of it for an environment."""
    config = SpatialVLAConfig(device="cpu", start=StartOptions(policy=str(CHECKPOINT)), **options)
    config.input_features = {"observation.images.image": PolicyFeature(FeatureType.VISUAL, (3, 48, 64))}
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
    from lerobot_policy_spatialvla.modeling_spatialvla import SpatialVLAPolicy

    return SpatialVLAPolicy(config).eval()


def test_a_checkpoint_acts_only_where_it_is_known_what_its_actions_mean(tmp_path):
    batch = {"observation.images.image": torch.full((1, 3, 48, 64), 0.5), "task": [TASK]}
    robot = "bridge_orig/1.0.0"
    with pytest.raises(InputError, match="nobody says what the robot's numbers mean"):
        published(dataset=robot).select_action(batch)
    path = tmp_path / "robot.yaml"
    path.write_text("gripper: {min: -1, max: 1, open: 0}")
    assert published(dataset=robot, mapping=str(path)).select_action(batch)[0, 6].abs() == 1
    with pytest.raises(InputError, match=r"trained on grippers from -0\.059"):
        published(dataset="tiny_robot/0.1.0", mapping=str(path)).select_action(batch)
    path.write_text("units: {meters: 0.05, radians: 0.5, rotation: rotation_vector, frame: base}")
    with pytest.raises(InputError, match="takes other actions"):
        published(dataset=robot, mapping=str(path)).select_action(batch)


def test_actions_of_unknown_units_are_given_where_that_is_said(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(f"image: {CAMERA}\ngripper: {{min: -1, max: 1}}")
    policy = begun(WIDOWX, str(path)).eval()
    batch = batch_of(WIDOWX, policy.config, [5])
    with pytest.raises(InputError, match="Nobody says the meters"):
        policy.select_action(batch)
    policy.config.unknown_units = True
    assert policy.select_action(batch).shape == (1, 7)


def test_what_lerobot_has_options_of_its_own_for_is_refused():
    from spatialvla.training.options import AdaptationOptions

    with pytest.raises(InputError, match=r"--peft\.method_type"):
        SpatialVLAConfig(device="cpu", adaptation=AdaptationOptions(mode="lora"))
    from lerobot_policy_spatialvla.peft_options import lora_options

    for options, said in (
        ({"method_type": "MISS"}, "LoRA alone"),
        ({"target_modules": "all-linear"}, "linear, linear"),
        ({"init_type": "pissa"}, "gaussian"),
    ):
        with pytest.raises(InputError, match=said):
            lora_options(options, new_grid=False)
    assert lora_options({"r": 16}, new_grid=True).modules_to_save == ("spatial_embed_tokens",)

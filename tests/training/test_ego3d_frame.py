"""Training in the robot's frame: from a dataset that tells where its camera stands to a policy that asks for it."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_policy import CAMERA_POSE

from spatialvla import Observation, Policy
from spatialvla.errors import InputError
from spatialvla.geometry.workspace import AROUND_BASE, PUBLISHED, Workspace
from spatialvla.model.loading import stored_config
from spatialvla.training.config import DatasetConfig
from spatialvla.training.loop import train
from spatialvla.training.start.build import network_config
from spatialvla.training.step import Learner

SEEN = Observation(np.full((32, 32, 3), 90, np.uint8), "push", depth=np.full((32, 32), 1.2, np.float32))


@pytest.fixture
def in_robot(make_config, dataset, tmp_path):
    """(**changes) -> TrainConfig in the robot's frame, with the mapping that it needs."""
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("extrinsics: observation.camera_pose\n")

    def make(**changes):
        datasets = (DatasetConfig(str(dataset), mapping=mapping),)
        return make_config(**{"ego3d_frame": "robot", "datasets": datasets, "steps": 3} | changes)

    return make


def test_a_policy_is_trained_and_asks_for_extrinsics(in_robot, tmp_path, monkeypatch):
    seen, update = [], Learner.update
    monkeypatch.setattr(
        Learner,
        "update",
        lambda self, loaded, *rest: (seen.append(loaded.batch), update(self, loaded, *rest))[1],
    )
    result = train(in_robot(), device="cpu")
    for batch in seen:
        np.testing.assert_allclose(batch.extrinsics, np.tile(CAMERA_POSE, (len(batch), 1, 1)), atol=1e-6)
    policy = Policy.from_pretrained(result.model)
    assert (policy.model.config.ego3d_frame, policy.model.config.workspace) == ("robot", AROUND_BASE)
    with pytest.raises(InputError, match="pass extrinsics of the camera 'image'"):
        policy.act(SEEN)
    assert np.isfinite(policy.act(replace(SEEN, extrinsics=CAMERA_POSE)).actions).all()
    # What goes on from it keeps its frame, unless it is told another.
    again = in_robot(policy=str(result.model), ego3d_frame=None, out=tmp_path / "again")
    assert network_config(again).ego3d_frame == "robot"
    back = network_config(replace(again, ego3d_frame="camera"))
    assert (back.ego3d_frame, back.workspace) == ("camera", PUBLISHED)


def test_the_workspace_goes_into_the_checkpoint(in_robot):
    result = train(in_robot(workspace=(0.4, 0.0, 0.1, 0.5), steps=1, in_memory=False), device="cpu")
    assert stored_config(result.model).workspace == Workspace((0.4, 0.0, 0.1), 0.5)


def test_a_dataset_without_extrinsics_says_what_is_missing(make_config, monkeypatch):
    # Before anything is read, decoded or loaded.
    for name in (
        "data.training_mixture.survey",
        "training.feed.datasets.CachedSource",
        "training.loop.build",
    ):
        monkeypatch.setattr(f"spatialvla.{name}", None)
    with pytest.raises(InputError, match=r"does not tell where its camera stands.*--ego3d-frame camera"):
        train(make_config(ego3d_frame="robot"), device="cpu")


def test_an_adapter_has_a_frame_of_its_own(in_robot, start):
    config = in_robot(policy=str(start), mode="lora", workspace=(0.4, 0.0, 0.1, 0.5))
    adapter = train(config, device="cpu").model
    found = stored_config(adapter)
    assert (found.ego3d_frame, found.workspace) == ("robot", Workspace((0.4, 0.0, 0.1), 0.5))
    assert stored_config(start).ego3d_frame == "camera"
    policy = Policy.from_pretrained(adapter)
    with pytest.raises(InputError, match="pass extrinsics of the camera 'image'"):
        policy.act(SEEN)
    kept = network_config(replace(config, ego3d_frame=None, workspace=None))
    assert (kept.ego3d_frame, kept.workspace) == ("camera", PUBLISHED)
    with pytest.raises(InputError, match="scale is a positive length"):
        network_config(replace(config, workspace=(0, 0, 0, 0)))

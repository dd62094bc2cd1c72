"""Runs on Open X-Embodiment's own cameras and states, of most of which nobody has published the intrinsics."""

from pathlib import Path

import numpy as np
import pytest
from tiny_policy import BRIDGE

from spatialvla import CameraImage, Observation, Policy
from spatialvla.errors import InputError
from spatialvla.training.config import DatasetConfig
from spatialvla.training.loop import train


@pytest.fixture
def open_x(make_config, depth_weights):
    """(**changes) -> the configuration of a run on Bridge's two cameras and its state.

    Its depth is that of an estimator that nobody trained.
    """

    def make(**changes):
        settings = {
            "datasets": (DatasetConfig(str(BRIDGE)),),
            "cameras": ("image", "secondary"),
            "state": True,
            "depth": "estimate",
            "depth_weights": depth_weights,
            "in_memory": False,
            "steps": 2,
            "batch_size": 4,
            "held_out": 0.0,
        }
        return make_config(**settings | changes)

    return make


def test_a_camera_whose_intrinsics_nobody_published_has_the_default_ones(open_x):
    """As first cameras have them: published training never had others."""
    config = open_x()
    assert train(config, device="cpu").finished
    policy = Policy.from_pretrained(config.out / "model", device="cpu")
    processor = policy.processor
    assert (processor.camera_names, processor.state_names[-2:]) == (
        ("image", "secondary"),
        ("pad", "gripper"),
    )
    default = processor.cameras["default"]
    known = processor.camera("bridge_orig/1.0.0", "secondary")
    np.testing.assert_array_equal(known.intrinsics, default.intrinsics)
    picture = np.zeros((48, 64, 3), np.uint8)
    seen = Observation(
        picture,
        "put the red block on the plate",
        images={"secondary": CameraImage(picture)},
        state=np.zeros(8),
    )
    assert np.isfinite(policy.act(seen).actions).all()


def test_in_the_robot_s_frame_each_camera_has_to_be_known(open_x):
    with pytest.raises(InputError, match=r"bridge_orig/1\.0\.0 does not tell .* its camera 'secondary'"):
        train(open_x(ego3d_frame="robot"), device="cpu")
    # The first one's place is known, as far as SimplerEnv's is.
    assert train(open_x(ego3d_frame="robot", cameras=("image",)), device="cpu").finished


def test_a_spec_file_tells_of_a_camera(open_x, tmp_path: Path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "like: bridge_orig\ncameras:\n  wrist: none\n  secondary: {image: observation/image_1,\n"
        "    intrinsics: {K: [[500, 0, 320], [0, 500, 240], [0, 0, 1]], height: 480, width: 640},\n"
        "    extrinsics: {matrix: [[0, 0.6, -0.8, 1.2], [1, 0, 0, 0], [0, -0.8, -0.6, 0.9], [0, 0, 0, 1]]}}\n"
    )
    config = open_x(ego3d_frame="robot", datasets=(DatasetConfig(str(BRIDGE), spec=str(spec)),))
    assert train(config, device="cpu").finished
    camera = Policy.from_pretrained(config.out / "model", device="cpu").processor.camera(
        "bridge_orig/1.0.0", "secondary"
    )
    assert camera.intrinsics[0, 0] == 500

"""Several cameras and the arm's state from LeRobot's robot client."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fake_policy import FakePolicy
from lerobot_client import FEATURES, numbers, refused, said, served
from lerobot_stand_in import lerobot
from running import picture

from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.known_cameras import LIBERO_WRIST
from spatialvla.geometry.robot_calibration import RobotCalibration

__all__ = ["lerobot"]  # a fixture
pytestmark = pytest.mark.usefixtures("lerobot")
BOTH = {**FEATURES, "observation.images.wrist": FEATURES["observation.images.front"]}


def two_cameras(state_size: int = 3, **more: Any) -> FakePolicy:
    return FakePolicy(cameras=("image", "wrist"), state_size=state_size, **more)


def test_cameras_and_numbers_come_by_the_robots_names() -> None:
    policy = two_cameras()
    depth = np.full((16, 16, 1), 500, np.uint16)
    with served(policy) as connect:
        robot = connect()
        robot.begin(BOTH)
        robot.see(1, wrist=picture(7), wrist_depth=depth, x=0.5, y=-0.25, z=0.125)
        assert np.allclose(numbers(robot.actions()), said(1), atol=1e-6)
    (seen,) = policy.seen
    assert np.array_equal(seen.image, picture(1))
    assert seen.depth is None
    assert np.array_equal(seen.images["wrist"].image, picture(7))
    assert np.allclose(seen.images["wrist"].depth, 0.5), "millimeters become meters"
    assert seen.state.tolist() == [0.5, -0.25, 0.125], "in the order of the robot's features"


def test_a_robot_of_one_camera_is_served_without_the_rest(caplog: Any) -> None:
    policy = two_cameras()
    features = {"observation.images.front": FEATURES["observation.images.front"]}
    with caplog.at_level(logging.WARNING), served(policy) as connect:
        robot = connect()
        robot.begin(features)
        robot.see(1)
        assert robot.actions()
    assert "The robot lacks wrist, state; the policy does without." in caplog.messages
    assert policy.seen[0].images == {}
    assert policy.seen[0].state is None


def test_a_robot_that_lacks_what_is_required_is_refused() -> None:
    with served(two_cameras(), require_all=True) as connect:
        told = "lacks what the policy has to have: wrist"
        with refused(grpc.StatusCode.INVALID_ARGUMENT, told):
            connect().begin()
        connect().begin(BOTH)


def test_a_state_of_another_size_is_refused_when_the_robot_comes() -> None:
    with served(two_cameras(state_size=4)) as connect:
        told = r"state has 3 numbers \(x, y, z\), and the policy's 4 \(s0, s1, s2, s3\)"
        with refused(grpc.StatusCode.INVALID_ARGUMENT, told):
            connect().begin(BOTH)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"wrist": np.zeros((16, 16, 2), np.uint8)}, "Camera wrist: "),
        ({"wrist": np.zeros((3000, 4, 3), np.uint8)}, "image of the camera wrist has shape"),
        ({"wrist": 3.0}, "'wrist' must be an array"),
        ({"x": float("nan")}, "contains NaN or infinity"),
    ],
)
@pytest.mark.wrong_arrays
def test_each_mistake_is_one_sentence(content: dict[str, Any], sentence: str) -> None:
    with served(two_cameras()) as connect:
        robot = connect()
        robot.begin(BOTH)
        robot.see(1, **{"wrist": picture(2), **content})
        with refused(grpc.StatusCode.INVALID_ARGUMENT, sentence):
            robot.actions()


def test_a_state_may_be_some_of_the_robots_numbers(tmp_path: Path) -> None:
    mapping = tmp_path / "mine.yaml"
    mapping.write_text("image: front\nprompt: task\nstate: [z, gripper]\n")
    policy = FakePolicy(state_size=2)
    with served(policy, str(mapping)) as connect:
        robot = connect()
        robot.begin()
        robot.see(1, z=0.25, gripper=0.5)
        assert robot.actions()
    assert policy.seen[0].state.tolist() == [0.25, 0.5]


def test_a_calibration_places_the_robots_cameras(tmp_path: Path) -> None:
    mapping = tmp_path / "mine.yaml"
    mapping.write_text(
        "image: front\nprompt: task\ncameras: {wrist: {image: wrist}}\nstate: observation.state\n"
        "position: [0, 1, 2]\nrotation: {indices: [3, 4, 5, 6], notation: quaternion_xyzw}\n"
    )
    camera = Camera(np.array([[16.0, 0, 8], [0, 16, 8], [0, 0, 1]]), 16, 16)
    hand = CalibratedCamera(camera, hand_eye=LIBERO_WRIST.hand_eye)
    names = ["x", "y", "z", "qx", "qy", "qz", "qw"]
    features = {**BOTH, "observation.state": {"dtype": "float32", "shape": (7,), "names": names}}
    policy = two_cameras(state_size=7)
    robot_file = RobotCalibration({"wrist": hand})
    with served(policy, str(mapping), calibration=robot_file) as connect:
        robot = connect()
        robot.begin(features)
        robot.see(1, wrist=picture(2), x=0.5, y=0.0, z=0.25, qx=1.0, qy=0.0, qz=0.0, qw=0.0)
        assert robot.actions()
        robot.see(2, 1, wrist=picture(2), x=0.5, y=0.0, z=0.25, qx=0.0, qy=0.0, qz=0.0, qw=0.0)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "a quaternion that is no rotation"):
            robot.actions()
    down = np.diag([1.0, -1, -1, 1]) + np.array([0.5, 0, 0.25, 0])[:, None] * np.eye(4)[3]
    np.testing.assert_allclose(policy.seen[0].images["wrist"].extrinsics, down @ hand.hand_eye, atol=1e-9)

"""A server that is told where the robot's cameras stand, and looks whether they still stand there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cameras import rotation
from fake_policy import SIZE, FakePolicy
from moving_arm import FRONT, SIDE, K, path, pictures, turned
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from running import Running, fake_service, picture, serving

from spatialvla import types
from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import inverse, pose_matrix, transform
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.serving.engine.client_interface import ClientInterface
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.counters import Metrics
from spatialvla.serving.engine.drift_watch import DriftWatch
from spatialvla_client import CameraImage, Client, Observation

CAMERA = Camera(K, SIDE, SIDE)
HAND_EYE = pose_matrix(np.array([0.0, 0.05, -0.1]), np.eye(3))
ROBOT = RobotCalibration(
    {"front": CalibratedCamera(CAMERA, FRONT), "wrist": CalibratedCamera(CAMERA, hand_eye=HAND_EYE)}
)
DOWN = rotation([np.pi, 0, 0])
"""Of a gripper that points to the table."""

MINE = """
image: front
prompt: task
cameras:
  wrist: {image: hand, rotate_180: true}
state: [pose, gripper]
pose: pose
position: [0, 1, 2]
rotation: {indices: [3, 4, 5], notation: axis_angle}
base: [0, 0, 0.5]
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A mapping of a robot that stands half a meter above the frame of its poses."""
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return str(file)


def two_cameras() -> FakePolicy:
    return FakePolicy(cameras=("image", "wrist"), state_size=7, needs_extrinsics=True)


def message(**changes: Any) -> dict[str, Any]:
    pose = np.array([0.5, 0.1, 0.8, np.pi, 0, 0])
    whole = {"front": picture(1), "hand": picture(2), "pose": pose, "gripper": 0.5, "task": "pick"}
    return {key: value for key, value in (whole | changes).items() if value is not None}


def test_cameras_get_the_k_and_the_places_that_clients_do_not_send(mine: str) -> None:
    policy = two_cameras()
    with serving(fake_service(policy, calibration=ROBOT), mine) as running:
        client = WebsocketClientPolicy("127.0.0.1", running.port)
        told = client.get_server_metadata()
        client.infer(message())
    assert [camera["calibrated"] for camera in told["cameras"]] == [True, True]
    assert told["needs_extrinsics"] is True
    (seen,) = policy.seen
    scale = np.diag([SIZE / SIDE, SIZE / SIDE, 1])
    np.testing.assert_allclose(seen.intrinsics, scale @ K)
    np.testing.assert_array_equal(seen.extrinsics, ROBOT.cameras["front"].extrinsics)
    gripper = pose_matrix(np.array([0.5, 0.1, 0.3]), DOWN)
    # The picture is turned for the policy, and its camera with it.
    np.testing.assert_allclose(
        seen.images["wrist"].extrinsics, gripper @ HAND_EYE @ np.diag([-1, -1, 1, 1]), atol=1e-9
    )


def test_what_a_client_sends_wins() -> None:
    policy = two_cameras()
    mine, place = np.diag([20.0, 20, 1]) + SIZE / 2 * np.eye(3, k=2), FRONT @ HAND_EYE
    mine[1, 2] = SIZE / 2
    sent = CameraImage(picture(2), mine, extrinsics=place)
    with serving(fake_service(policy, calibration=only("front"))) as running, Client(running.url) as robot:
        robot.act(Observation(picture(1), "pick", extrinsics=place, images={"wrist": sent}))
    (seen,) = policy.seen
    np.testing.assert_array_equal(seen.extrinsics, place)
    np.testing.assert_allclose(seen.intrinsics, np.diag([SIZE / SIDE, SIZE / SIDE, 1]) @ K)
    np.testing.assert_array_equal(seen.images["wrist"].intrinsics, mine)
    np.testing.assert_array_equal(seen.images["wrist"].extrinsics, place)


def only(name: str) -> RobotCalibration:
    return RobotCalibration({name: ROBOT.cameras[name]})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"front": np.zeros((SIZE, 2 * SIZE, 3), np.uint8)}, "Camera image: .*has another aspect"),
        ({"hand": np.zeros((2 * SIZE, SIZE, 3), np.uint8)}, "Camera wrist: .*has another aspect"),
        ({"pose": None, "gripper": None}, "Camera wrist: the gripper carries it.*pose, which is missing"),
        ({"pose": np.zeros(5), "gripper": np.zeros(2)}, "but its entries .0, 1, 2, 3, 4, 5. are needed"),
        ({"pose": np.r_[500.0, 0, 300, 0, 0, 0]}, "pass meters, not millimeters"),
        ({"pose": np.r_[0.5, 0, 0.3, np.nan, 0, 0]}, "'pose' contains NaN"),
    ],
)
def test_each_mistake_is_one_sentence(mine: str, changes: dict[str, Any], sentence: str) -> None:
    with serving(fake_service(two_cameras(), calibration=ROBOT), mine) as running:
        client = WebsocketClientPolicy("127.0.0.1", running.port)
        with pytest.raises(RuntimeError, match=sentence):
            client.infer(message(**changes))


@pytest.mark.parametrize(
    ("mapping", "calibration", "sentence"),
    [
        ("bridge", None, "under which key the client sends it for image"),
        ("mine", None, "sends it for image, wrist; add extrinsics .* or give a --calibration"),
        ("mine", only("front"), "sends it for wrist; add"),
        ("bridge", only("wrist"), "sends it for image; add"),
        ("unposed", ROBOT, "The gripper carries the camera wrist.*add position, rotation"),
        (
            "mirrored",
            ROBOT,
            "pictures of the camera image are mirrored, and the calibration that they are not",
        ),
        (
            "bridge",
            RobotCalibration({"a": ROBOT.cameras["front"], "b": ROBOT.cameras["front"]}),
            "cameras a, b",
        ),
    ],
)
def test_what_lacks_a_place_is_told_at_the_start(
    mine: str, tmp_path: Path, mapping: str, calibration: RobotCalibration | None, sentence: str
) -> None:
    text = {
        "mine": MINE,
        "unposed": MINE.replace("base: [0, 0, 0.5]", "base: unknown"),
        "mirrored": MINE + "mirrored: true\n",
    }
    if mapping in text:
        Path(mine).write_text(text[mapping])
        mapping = mine
    service = fake_service(two_cameras(), calibration=calibration)
    with pytest.raises(InputError, match=sentence):
        ClientInterface(ClientMapping.load(mapping), service)
    service.engine.drain(1)


# ---------------------------------------------------------------- has a camera moved?


def drive(running: Running, camera: np.ndarray, positions: np.ndarray, **more: Any) -> None:
    """One episode of a robot whose camera stands there."""
    with Client(running.url) as robot:
        for image, position in zip(pictures(camera, positions), positions, strict=True):
            robot.act(Observation(image, "pick", position=position, **more))


def settled(running: Running, name: str, **labels: str) -> float:
    """A number of the metrics once it is not 0, or after a second."""
    for _ in range(100):
        if (found := running.value(name, **labels)) or time.sleep(0.01):
            break
    return found


@pytest.fixture
def front_alone() -> Iterator[Running]:
    with serving(fake_service(FakePolicy(), calibration=only("front"))) as running:
        yield running


def test_a_pushed_camera_is_told_in_the_log_and_the_metrics(front_alone: Running, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        drive(front_alone, turned(8, [0, 1, 0]), path(60))
        assert settled(front_alone, "drifted_sightings_total", camera="image") == 1
    assert front_alone.value("gripper_offset_pixels", camera="image") > 20
    (told,) = [line for line in caplog.messages if "sees the gripper" in line]
    assert told.startswith("The camera image of 127.0.0.1 sees the gripper ")
    assert "of where it should be; calibrate it again" in told


def test_a_camera_that_stands_where_it_should_is_not_told(front_alone: Running, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        drive(front_alone, FRONT, path(30))
        assert settled(front_alone, "gripper_offset_pixels", camera="image") < 20, "at the episode's end"
    assert front_alone.value("drifted_sightings_total", camera="image") == 0
    assert not [line for line in caplog.messages if "sees the gripper" in line]


def test_pictures_of_another_size_begin_anew(caplog: Any) -> None:
    """A client that sends K with each picture may change the size in the middle of an episode."""

    def at_once(call: Callable[[], None]) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(call())
        return done

    metrics = Metrics()
    watch = DriftWatch(metrics, at_once, "robot")
    seen = pictures(turned(8, [0, 1, 0]), path(60))
    for number, (image, position) in enumerate(zip(seen, path(60), strict=True)):
        shown = image if number > 5 else image[: SIDE // 2]
        watch.add({"front": types.CameraImage(shown, K, extrinsics=FRONT)}, position)
    assert metrics.value("drifted_sightings_total", camera="front") == 1
    watch.conclude()


def test_the_fingertips_are_where_the_mapping_says(tmp_path: Path) -> None:
    """A pose of the flange is 10 cm above the fingertips, and would be told as drift."""
    file = tmp_path / "flange.yaml"
    file.write_text(
        MINE.replace("cameras:\n  wrist: {image: hand, rotate_180: true}\n", "") + "fingertips: [0, 0, 0.1]\n"
    )
    service = fake_service(FakePolicy(), calibration=only("front"))
    interface = ClientInterface(ClientMapping.load(str(file)), service)
    flange = pose_matrix(np.array([0.5, 0.1, 0.4]), DOWN)
    told = np.r_[flange[:3, 3] + [0, 0, 0.5], np.pi, 0, 0]
    np.testing.assert_allclose(interface.fingertips(message(pose=told)), [0.5, 0.1, 0.3], atol=1e-9)
    np.testing.assert_allclose(
        transform(inverse(flange), interface.fingertips(message(pose=told))[None])[0], [0, 0, 0.1], atol=1e-9
    )
    assert interface.fingertips(message(pose=None)) is None
    service.engine.drain(1)
    service = fake_service(FakePolicy())
    libero = ClientInterface(ClientMapping.load("libero"), service)
    assert libero.fingertips({"observation/state": np.zeros(8)}) is None, "its base is not known"
    service.engine.drain(1)

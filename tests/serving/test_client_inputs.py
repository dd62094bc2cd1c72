"""Several cameras and the arm's state from the clients of openpi's protocol, and from our own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_policy import SIZE, FakePolicy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from running import K, fake_service, picture, serving

from spatialvla import types
from spatialvla.data.oxe.specs import SPECS
from spatialvla.errors import InputError
from spatialvla.serving.engine.client_interface import ClientInterface
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla_client import CameraImage, Client, Observation, Refused

PLACE = np.eye(4) + 0.5 * np.eye(4, k=3)
"""Extrinsics of a camera half a meter from the base along x."""


def libero(**changes: Any) -> dict[str, Any]:
    message = {
        "observation/image": picture(1),
        "observation/wrist_image": picture(2),
        "observation/state": np.linspace(-0.5, 0.5, 8),
        "prompt": "put the bowl on the plate",
    }
    return {key: value for key, value in (message | changes).items() if value is not None}


def droid(**changes: Any) -> dict[str, Any]:
    message = {
        "observation/exterior_image_1_left": picture(1),
        "observation/wrist_image_left": picture(2),
        "observation/joint_position": np.linspace(-0.5, 0.5, 7),
        "observation/gripper_position": np.array([0.25]),
        "prompt": "close the drawer",
    }
    return {key: value for key, value in (message | changes).items() if value is not None}


def two_cameras(**more: Any) -> FakePolicy:
    return FakePolicy(cameras=("image", "wrist"), state_size=8, **more)


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """Of servers of a policy with two cameras, by their mappings."""
    with (
        serving(fake_service(two_cameras()), "libero") as first,
        serving(fake_service(two_cameras()), "droid") as second,
    ):
        yield {"libero": first.port, "droid": second.port}


# ------------------------------------------------------------ openpi's client


@pytest.mark.parametrize(
    ("mapping", "message", "state"),
    [
        ("libero", libero(), np.linspace(-0.5, 0.5, 8)),
        ("droid", droid(), [*np.linspace(-0.5, 0.5, 7), 0.25]),
    ],
)
def test_openpis_keys_deliver_the_wrist_picture_and_the_state(mapping, message, state) -> None:
    policy = two_cameras()
    with serving(fake_service(policy), mapping) as running:
        client = WebsocketClientPolicy("127.0.0.1", running.port)
        told = client.get_server_metadata()
        assert client.infer(message)["actions"].shape == (4, 7)
    (seen,) = policy.seen
    assert np.array_equal(seen.image, picture(1))
    assert np.array_equal(seen.images["wrist"].image, picture(2))
    assert np.allclose(seen.state, state)
    assert [camera["name"] for camera in told["cameras"]] == ["image", "wrist"], "in the policy's order"
    assert {camera["keys"]["image"] for camera in told["cameras"]} <= set(message)
    assert [camera["required"] for camera in told["cameras"]] == [True, False]
    assert told["state"]["names"] == [f"s{number}" for number in range(8)]
    assert set(told["state"]["keys"]) <= set(message)
    assert told["needs_extrinsics"] is False


@pytest.mark.parametrize(("mapping", "message"), [("libero", libero()), ("droid", droid())])
def test_a_policy_of_one_camera_ignores_what_openpis_client_sends_beside_it(mapping, message) -> None:
    policy = FakePolicy()
    with serving(fake_service(policy), mapping) as running:
        client = WebsocketClientPolicy("127.0.0.1", running.port)
        assert [camera["name"] for camera in client.get_server_metadata()["cameras"]] == ["image"]
        assert client.get_server_metadata()["state"] is None
        client.infer(message)
    assert policy.seen[0].images == {}
    assert policy.seen[0].state is None


def test_what_is_missing_is_masked_unless_all_is_required() -> None:
    policy = two_cameras()
    message = libero(**{"observation/wrist_image": None, "observation/state": None})
    with serving(fake_service(policy), "libero") as running:
        WebsocketClientPolicy("127.0.0.1", running.port).infer(message)
    assert policy.seen[0].images == {}
    assert policy.seen[0].state is None
    with serving(fake_service(two_cameras(), require_all=True), "libero") as running:
        for missing in ("observation/image", "observation/wrist_image", "observation/state"):
            client = WebsocketClientPolicy("127.0.0.1", running.port)
            with pytest.raises(RuntimeError, match=f"The observation lacks '{missing}'"):
                client.infer(libero(**{missing: None}))
        WebsocketClientPolicy("127.0.0.1", running.port).infer(libero())


def test_a_mapping_that_has_not_all_that_is_required_does_not_start(caplog) -> None:
    service = fake_service(two_cameras(), require_all=True)
    with pytest.raises(InputError, match="the mapping 'bridge' says nothing of wrist; add the keys"):
        ClientInterface(ClientMapping.load("bridge"), service)
    service.engine.drain(1)
    service = fake_service(two_cameras())
    with caplog.at_level(logging.WARNING):
        ClientInterface(ClientMapping.load("bridge"), service)
    assert "The mapping 'bridge' says nothing of wrist; the policy does without." in caplog.messages
    service.engine.drain(1)


@pytest.mark.wrong_arrays
@pytest.mark.parametrize(
    ("mapping", "message", "sentence"),
    [
        ("libero", libero(**{"observation/wrist_image": picture(2).astype(np.float32)}), "wrist.*uint8"),
        (
            "libero",
            libero(**{"observation/wrist_image": np.zeros((SIZE, SIZE, 2), np.uint8)}),
            "wrist.*shape",
        ),
        ("libero", libero(**{"observation/wrist_image": "wrist.png"}), "wrist_image' must be an array"),
        (
            "libero",
            libero(**{"observation/wrist_image": np.zeros((4, 3000, 3), np.uint8)}),
            "The image of the camera wrist has shape",
        ),
        (
            "libero",
            libero(**{"observation/wrist_depth": np.full((SIZE, SIZE), 900.0)}),
            "wrist.*millimeters",
        ),
        ("libero", libero(**{"observation/wrist_intrinsics": np.eye(2)}), "wrist.*3x3"),
        (
            "libero",
            libero(**{"observation/state": np.zeros(7)}),
            "'observation/state' must be the policy's state of 8 numbers, got 7",
        ),
        ("libero", libero(**{"observation/state": np.zeros((1, 8))}), "must be a row of numbers"),
        ("libero", libero(**{"observation/state": np.r_[np.zeros(7), np.nan]}), "contains NaN"),
        ("libero", libero(**{"observation/state": "still"}), "must be an array of numbers"),
        (
            "droid",
            droid(**{"observation/gripper_position": None}),
            "lacks 'observation/gripper_position' of the arm's state",
        ),
        ("droid", droid(**{"observation/joint_position": np.zeros(6)}), "state of 8 numbers, got 7"),
        ("droid", droid(**{"observation/joint_position": np.full(7, np.inf)}), "contains NaN or infinity"),
    ],
)
def test_each_mistake_is_one_sentence(ports, mapping, message, sentence) -> None:
    client = WebsocketClientPolicy("127.0.0.1", ports[mapping])
    with pytest.raises(RuntimeError, match=sentence):
        client.infer(message)
    right = libero() if mapping == "libero" else droid()
    WebsocketClientPolicy("127.0.0.1", ports[mapping]).infer(right)


def test_pictures_of_all_cameras_are_held_against_the_limits() -> None:
    small = TrafficLimits(max_image=SIZE)
    seen = types.Observation(picture(1), "pick", images={"wrist": types.CameraImage(picture(2))})
    small.check(seen)
    for wrong, told in (
        (types.CameraImage(np.zeros((SIZE + 1, SIZE, 3), np.uint8)), "image of the camera wrist"),
        (
            types.CameraImage(picture(2), depth=np.ones((SIZE, SIZE + 1))),
            "depth map of the camera wrist",
        ),
    ):
        with pytest.raises(InputError, match=f"The {told} has shape"):
            small.check(types.Observation(picture(1), "pick", images={"wrist": wrong}))


@pytest.mark.parametrize(
    ("mapping", "dataset"),
    [("libero", "libero_spatial_no_noops"), ("droid", "droid"), ("bridge", "bridge_orig")],
)
def test_mappings_send_the_state_as_the_datasets_have_it(mapping: str, dataset: str) -> None:
    """By the names of its numbers: what a policy learned from is what it is given."""
    spec = SPECS[dataset].state
    assert spec is not None
    policy = FakePolicy(state_size=len(spec.names))
    policy.state_names = spec.names
    service = fake_service(policy)
    interface = ClientInterface(ClientMapping.load(mapping), service)
    service.engine.drain(1)
    sent = {
        "libero": {"observation/state": np.arange(1.0, 9)},
        "droid": {"observation/cartesian_position": np.arange(1.0, 7), "observation/gripper_position": [7]},
        "bridge": {"observation/state": np.arange(1.0, 8)},
    }[mapping]
    wanted = {
        "libero": np.arange(1.0, 9),
        "droid": [1, 2, 3, 4, 5, 6, 0, 7],
        "bridge": [1, 2, 3, 4, 5, 6, 0, 7],
    }[mapping]
    first = interface.mapping.first.image
    seen = interface.observation({**sent, first: picture(1), "prompt": "pick"})
    assert seen.state.tolist() == list(wanted)


def test_a_state_of_another_layout_is_not_taken_for_the_policys(caplog: Any) -> None:
    """What `record` writes of LIBERO has as many numbers, and its rotation is the fingertips', not the hand's."""
    policy = two_cameras()
    policy.state_names = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "left", "right")
    with caplog.at_level(logging.WARNING), serving(fake_service(policy), "libero") as running:
        client = WebsocketClientPolicy("127.0.0.1", running.port)
        assert client.get_server_metadata()["state"]["keys"] == []
        client.infer(libero())
    assert policy.seen[0].state is None
    (told,) = [line for line in caplog.messages if "says nothing of a state" in line]
    assert "axis_angle_x" in told
    assert "rx, ry, rz" in told
    service = fake_service(policy, require_all=True)
    with pytest.raises(InputError, match="says nothing of a state of x, y, z, axis_angle_x"):
        ClientInterface(ClientMapping.load("libero"), service)
    service.engine.drain(1)


# ------------------------------------------------------------ our own client


def test_the_light_client_sends_cameras_by_name_with_all_that_belongs_to_them() -> None:
    policy = FakePolicy(cameras=("front", "left", "wrist"), state_size=3, needs_extrinsics=True)
    depth = np.full((SIZE, SIZE), 0.5, np.float32)
    left, wrist = CameraImage(picture(2), K, depth, PLACE), CameraImage(picture(3), extrinsics=PLACE)
    state = np.array([0.5, 0.25, -0.5])
    with serving(fake_service(policy)) as running, Client(running.url) as robot:
        robot.act(
            Observation(
                picture(1), "pick", extrinsics=PLACE, images={"left": left, "wrist": wrist}, state=state
            )
        )
        front = CameraImage(picture(1), K, extrinsics=PLACE)
        robot.act(Observation(None, "pick", images={"front": front}))
        assert robot.metadata["needs_extrinsics"] is True
    both, alone = policy.seen
    assert list(both.images) == ["left", "wrist"]
    for name, sent in (("left", left), ("wrist", wrist)):
        for part in ("image", "intrinsics", "depth", "extrinsics"):
            np.testing.assert_array_equal(getattr(both.images[name], part), getattr(sent, part))
    np.testing.assert_array_equal(both.state, state)
    np.testing.assert_array_equal(alone.intrinsics, K)
    assert alone.images == {}
    assert alone.state is None


def test_the_light_client_takes_the_observations_of_the_library() -> None:
    policy = two_cameras()
    wrist = types.CameraImage(picture(2), K)
    seen = types.Observation(picture(1), "pick", images={"wrist": wrist}, state=np.zeros(8))
    with serving(fake_service(policy), "libero") as running, Client(running.url) as robot:
        robot.act(seen)
    np.testing.assert_array_equal(policy.seen[0].images["wrist"].intrinsics, K)
    np.testing.assert_array_equal(policy.seen[0].state, np.zeros(8))


def test_the_light_client_says_what_the_server_does_not_look_at() -> None:
    with serving(fake_service(FakePolicy())) as running, Client(running.url) as robot:
        with pytest.raises(Refused, match=r"through a camera 'wrist', but through image; leave it out"):
            robot.act(Observation(picture(1), "pick", images={"wrist": CameraImage(picture(2))}))
        with pytest.raises(Refused, match="takes no state; leave it out"):
            robot.act(Observation(picture(1), "pick", state=np.zeros(8)))
        with pytest.raises(Refused, match="image is given twice"):
            robot.act(Observation(picture(1), "pick", images={"image": CameraImage(picture(2))}))
        robot.act(Observation(picture(1), "pick"))


def test_a_position_within_the_state_is_sent_with_it() -> None:
    """LIBERO's state begins with the position: a policy that takes no state, and limits, still learn it."""
    with serving(fake_service(FakePolicy()), "libero") as running, Client(running.url) as robot:
        state = np.arange(8.0)
        robot.act(Observation(picture(1), "pick", state=state, position=state[:3]))
        robot.act(Observation(picture(1), "pick", position=state[:3]))


def test_a_mapping_names_each_camera_its_own_way(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        """
image: cam_high
prompt: task
cameras:
  wrist: {image: cam_wrist, extrinsics: wrist_pose, rotate_180: true}
  "*": {image: "cam_{camera}", intrinsics: "K_{camera}"}
state: [joints, gripper]
"""
    )
    policy = FakePolicy(cameras=("image", "wrist", "left"), state_size=4)
    with serving(fake_service(policy), str(file)) as running:
        client = WebsocketClientPolicy("127.0.0.1", running.port)
        keys = {camera["name"]: camera["keys"] for camera in client.get_server_metadata()["cameras"]}
        assert keys["left"] == {"image": "cam_left", "intrinsics": "K_left"}
        client.infer(
            {
                **{f"cam_{name}": picture(seed) for seed, name in enumerate(("high", "wrist", "left"))},
                **{
                    "wrist_pose": PLACE,
                    "K_left": K,
                    "task": "pick",
                    "joints": [0.0, 0.5, 1],
                    "gripper": 0.75,
                },
            }
        )
    (seen,) = policy.seen
    assert np.array_equal(seen.images["wrist"].image, np.rot90(picture(1), 2))
    assert np.array_equal(seen.images["wrist"].extrinsics, PLACE @ np.diag([-1, -1, 1, 1]))
    assert np.array_equal(seen.images["left"].intrinsics, K)
    assert seen.state.tolist() == [0.0, 0.5, 1, 0.75]

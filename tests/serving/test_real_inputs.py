"""A real policy of two cameras and a state behind the server: what is missing changes nothing, the rest is seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from PIL import Image
from running import serving

from spatialvla import Policy
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.extrinsics import pose_matrix
from spatialvla.geometry.known_cameras import LIBERO_AGENTVIEW, LIBERO_WRIST
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.model.growth import give_inputs, grow
from spatialvla.serving.engine.service import Service, service_for

# A scene that nano knows: in noise it does the same whatever else it is shown.
TABLE = Path(__file__).parents[2] / "docs" / "images" / "table.png"
IMAGE = np.asarray(Image.open(TABLE).convert("RGB").resize((96, 96)))
WRIST = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
STATE = np.linspace(-0.5, 0.5, 8)
PLACE = pose_matrix(np.array([1.2, 0, 0.7]), np.array([[0, 0.6, -0.8], [1, 0, 0], [0, -0.8, -0.6]]))
ROBOT = RobotCalibration({"front": CalibratedCamera(LIBERO_AGENTVIEW, PLACE, mirrored=True)})


def grown(frame: str = "camera") -> Policy:
    """nano with a wrist camera and a state of eight numbers."""
    torch.manual_seed(0)
    policy = Policy.from_pretrained("nano")
    grow(policy.model, ("wrist",), 8)
    give_inputs(policy.model, policy.model.config.replace(ego3d_frame=frame))
    processor = replace(
        policy.processor,
        camera_names=("image", "wrist"),
        other_cameras={"wrist": {"default": LIBERO_WRIST.camera}},
        state_names=("x", "y", "z", "rx", "ry", "rz", "gripper_1", "gripper_2"),
        state_statistics={policy.dataset: StateStatistics(-np.ones(8), np.ones(8))},
    )
    return Policy(policy.model, processor, dataset=policy.dataset)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    service = service_for(grown())
    yield service
    service.engine.drain(30)


def message(**changes: object) -> dict[str, object]:
    whole = {
        "observation/image": IMAGE,
        "observation/wrist_image": WRIST,
        "observation/state": STATE,
        "prompt": "pick up the black bowl",
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def tokens(port: int, **changes: object) -> list[list[int]]:
    found: np.ndarray = WebsocketClientPolicy("127.0.0.1", port).infer(message(**changes))["tokens"]
    return found.tolist()


def test_one_checkpoint_is_served_with_and_without_its_wrist_camera_and_state(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = {"observation/wrist_image": None, "observation/state": None}
    with serving(service, "libero") as running:
        served = [tokens(running.port, **changes) for changes in ({}, nothing)]
        told = WebsocketClientPolicy("127.0.0.1", running.port).get_server_metadata()
    with serving(service_for(Policy.from_pretrained("nano")), "libero") as running:
        alone = tokens(running.port)
    assert served[1] == alone, "as nano, which has neither"
    assert served[0] != alone, "they are seen"
    # Said once a connection, and not where everything comes.
    (lacking,) = [line for line in caplog.messages if "sends nothing of" in line]
    assert "sends nothing of wrist, the arm's state; the policy does without." in lacking
    assert told["state"]["names"] == ["x", "y", "z", "rx", "ry", "rz", "gripper_1", "gripper_2"]


def test_a_dataset_without_a_state_is_served_without_one() -> None:
    """What its clients send of the state is not looked at; the statistics that it would need are another's."""
    policy = grown()
    others = {"another": StateStatistics(-np.ones(8), np.ones(8))}
    policy = Policy(policy.model, replace(policy.processor, state_statistics=others), dataset=policy.dataset)
    with serving(service_for(policy), "libero") as running:
        assert WebsocketClientPolicy("127.0.0.1", running.port).get_server_metadata()["state"] is None
        assert tokens(running.port) == tokens(running.port, **{"observation/state": None})


def test_a_policy_in_the_robots_frame_is_served_with_a_calibration_file() -> None:
    """What the server fills in is what a client would have sent."""
    wrist = {"observation/wrist_extrinsics": PLACE, "observation/wrist_intrinsics": np.diag([62.6, 62.6, 1])}
    wrist["observation/wrist_intrinsics"][:2, 2] = 48
    scaled = LIBERO_AGENTVIEW.scaled_to(96, 96)
    sent = {"observation/extrinsics": PLACE, "observation/intrinsics": scaled, **wrist}
    with serving(service_for(grown("robot"), calibration=ROBOT), "libero") as running:
        filled = tokens(running.port, **wrist)
        assert tokens(running.port, **sent) == filled
        with pytest.raises(RuntimeError, match="pass extrinsics of the camera 'wrist'"):
            tokens(running.port)

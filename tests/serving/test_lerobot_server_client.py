"""LeRobot's own robot client, unmodified, against our server. It lives in an environment of its own: `make lerobot`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_policy import FakePolicy, expected
from lerobot_stand_in import lerobot
from test_lerobot_server import served

from spatialvla.types import Observation

__all__ = ["lerobot"]  # a fixture
PYTHON = os.environ.get("LEROBOT_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="LEROBOT_PYTHON names no Python with LeRobot; see `make lerobot`"),
]


def play(port: int, steps: int, threshold: float, folder: Path) -> dict[str, Any]:
    """What the simulated arm was told; the client's log goes to the folder."""
    script = Path(__file__).with_name("lerobot_robot.py")
    command = [PYTHON, "-W", "ignore", str(script), "play", f"127.0.0.1:{port}", str(steps), str(threshold)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def said(executed: int) -> np.ndarray:
    """(4, 7) what the policy answers where the camera shows that many executed actions."""
    return expected(Observation(np.full((16, 16, 3), executed, np.uint8), "pick up the bowl"))


def test_it_executes_whole_chunks_one_after_the_other(tmp_path: Path) -> None:
    with served(wait=2.0, control_hz=20) as connect:
        got = play(connect.port, 12, 0.0, tmp_path)
    assert got["started"]
    assert np.allclose(got["told"], np.concatenate([said(0), said(4), said(8)]), atol=1e-6)


def test_with_a_threshold_it_asks_while_it_executes(tmp_path: Path) -> None:
    policy = FakePolicy(0.02)
    with served(policy, wait=2.0, control_hz=20) as connect:
        got = play(connect.port, 16, 0.5, tmp_path)
    assert len(got["told"]) == 16
    assert len(policy.batches) > 4
    # Every action is one of the chunk that was decided on where its picture was taken.
    steps = {tuple(np.round(row, 6)) for seen in range(17) for row in said(seen)}
    assert all(tuple(np.round(action, 6)) in steps for action in got["told"])


def test_a_failure_is_logged_and_the_robot_goes_on_with_the_next_observation(tmp_path: Path) -> None:
    class Faltering(FakePolicy):
        def decide(self, observations: Any, executors: Any) -> Any:
            chunks = super().decide(observations, executors)
            if len(self.batches) == 1:
                raise RuntimeError("once")
            return chunks

    with served(Faltering(), wait=2.0) as connect:
        got = play(connect.port, 4, 0.0, tmp_path)
    assert np.allclose(got["told"], said(0), atol=1e-6)


def test_a_robot_with_another_camera_is_told_when_it_begins(tmp_path: Path) -> None:
    mapping = tmp_path / "side.yaml"
    mapping.write_text("image: side\nprompt: task\n")
    with served(mapping=str(mapping)) as connect:
        got = play(connect.port, 1, 0.0, tmp_path)
    assert got == {"started": False, "told": []}

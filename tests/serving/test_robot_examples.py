"""The examples on docs/how-to/serve.md, as they stand there: a simulated arm, a server, and the client between them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import serving

from spatialvla import Policy
from spatialvla.serving.engine.service import service_for
from spatialvla.serving.guard.limits import Limits

FRANKA = Path(__file__).parents[2] / "examples" / "robot_franka.py"


@pytest.mark.sim
@pytest.mark.parametrize("options", [[], ["--asynchronous"]])
def test_the_franka_plays_an_episode(options):
    service = service_for(Policy.from_pretrained("nano"), port=0, limits=Limits.load("libero"))
    with serving(service) as running:
        command = [sys.executable, FRANKA, "--url", running.url, *options]
        environment = {**os.environ, "MUJOCO_GL": "egl"}
        played = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        assert played.returncode == 0, played.stderr
        assert "place it on the plate: " in played.stdout
        # 220 steps in chunks of four, fewer where it succeeds; the asynchronous loop asks more often.
        assert running.value("requests_total", outcome="ok") >= 10
        assert running.value("requests_total", outcome="bad_input") == 0

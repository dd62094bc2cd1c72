"""lerobot-rollout with a simulated arm, at once and in real-time chunks, and lerobot-eval in LIBERO."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
from lerobot.scripts import lerobot_eval, lerobot_rollout
from simulated_arm import PICTURE, SimulatedArm

from conftest import CHECKPOINT, WIDOWX
from lerobot_policy_spatialvla import acting
from spatialvla import Observation, Policy

TASK = "pick up the bowl"
LIBERO = "gripper: {min: -1, max: 1, open: 0}\nimage: observation.images.image\n"


@pytest.fixture
def trained(tmp_path, train, mapping):
    words = ("--policy.type=spatialvla", f"--policy.start.policy={CHECKPOINT}", f"--policy.mapping={mapping}")
    return train(tmp_path / "run", WIDOWX, *words, "--steps=1", "--policy.start.chunk_size=8")


@pytest.mark.parametrize("way", ["sync", "rtc"])
def test_a_robot_is_told_what_the_policy_says(trained, command, monkeypatch, way):
    committed = []

    def counted(self, numbers, steps):
        committed.append(find(self, numbers, steps))
        return committed[-1]

    find = acting.Actor.committed
    monkeypatch.setattr(acting.Actor, "committed", counted)
    words = ("--robot.type=simulated_arm", "--robot.id=arm", f"--task={TASK}", "--duration=6", "--fps=4")
    quiet = ("--play_sounds=false", "--return_to_initial_position=false", "--device=cpu")
    command(lerobot_rollout, f"--policy.path={trained}", *words, *quiet, f"--inference.type={way}")
    (expected,) = Policy.from_pretrained(trained).predict([Observation(PICTURE, TASK)])
    numbers = expected.actions.copy()
    numbers[:, 6] = 2 * numbers[:, 6] - 1
    told = np.array(SimulatedArm.told)
    assert len(told) >= 4
    if way == "sync":
        np.testing.assert_allclose(told[:4], numbers[:4], atol=1e-6)
        assert not committed
    else:  # where a chunk begins depends on how long the last one took
        assert np.isfinite(told).all()
        assert any(len(tokens) for tokens in committed)


@pytest.mark.skipif(find_spec("libero") is None, reason="LIBERO is not installed")
def test_a_policy_is_evaluated_in_libero(tmp_path, command):
    mapping = tmp_path / "libero.yaml"
    mapping.write_text(LIBERO + "units: {meters: 0.05, radians: 0.5, rotation: rotation_vector, frame: base}")
    command(
        lerobot_eval,
        *("--policy.type=spatialvla", "--policy.start.policy=nano", f"--policy.mapping={mapping}"),
        *("--policy.device=cpu", f"--output_dir={tmp_path / 'out'}"),
        *("--env.type=libero", "--env.task=libero_spatial", "--env.task_ids=[0]", "--env.episode_length=8"),
        *("--env.init_states=false", "--env.observation_height=128", "--env.observation_width=128"),
        *("--eval.n_episodes=1", "--eval.batch_size=1"),
    )
    told = json.loads((tmp_path / "out" / "eval_info.json").read_text())
    assert told["overall"]["n_episodes"] == 1

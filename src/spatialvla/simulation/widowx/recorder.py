"""How demonstrations of SimplerEnv's WidowX tasks are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from spatialvla.actions.units import BRIDGE
from spatialvla.errors import InputError
from spatialvla.simulation.recording.config import RecordingConfig
from spatialvla.simulation.recording.dataset import Embodiment
from spatialvla.simulation.recording.demonstration import Demonstration
from spatialvla.simulation.recording.recorder import Play, check_policy, driving_policy
from spatialvla.simulation.widowx.demonstration import demonstrate
from spatialvla.simulation.widowx.env import CAMERA, CONTROL_HZ, TASKS, WidowXEnv
from spatialvla.simulation.widowx.expert import WidowXExpert


@dataclass(frozen=True)
class WidowXRecorder:
    """Records the suite of SimplerEnv's four tasks."""

    embodiment = Embodiment("widowx", CAMERA, CONTROL_HZ, BRIDGE)

    def check(self, config: RecordingConfig) -> None:
        """Raises InputError for further cameras, and for a policy whose actions are in other units."""
        if config.views.names:
            raise InputError(
                f"{config.suite} has one camera, whose photograph is laid behind the robot; record it without "
                "--cameras random and --wrist."
            )
        check_policy(config, BRIDGE, "the WidowX's controller")

    def task_names(self, suite: str) -> Sequence[str]:
        """The instructions, which name the tasks."""
        return [task.instruction for task in TASKS]

    @contextmanager
    def playing(self, config: RecordingConfig, task: int) -> Iterator[Play]:
        """The scene of one task. Raises InputError where the simulator is missing."""
        policy = driving_policy(config)
        env = WidowXEnv(TASKS[task])
        expert = WidowXExpert(env)

        def play(seed: Sequence[int]) -> Demonstration | None:
            rng = np.random.default_rng(seed)
            return demonstrate(env, expert, rng, draw_every=config.draw_every, policy=policy)

        yield play
        env.close()

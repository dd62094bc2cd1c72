"""A WidowX arm that asks a policy server through openpi's client: here SimplerEnv's simulated arm.

    spatialvla serve --policy CHECKPOINT --dataset bridge_orig/1.0.0 --mapping bridge
    python examples/robot_widowx.py --task 1

Needs openpi-client on the robot's side, and for the simulated arm ManiSkill 3 (docs/how-to/evaluate.md says
how).
"""

from __future__ import annotations

import argparse
import os

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

TAKEN = {
    "meters_per_unit": 1,
    "radians_per_unit": 1,
    "rotation": "euler",
    "frame": "base",
    "control_hz": 5,
    "gripper_open": 1,
}


class WidowX:
    """What a robot has to be able to do. This one is simulated, at 5 control steps a second."""

    def __init__(self, task: int, start_state: int) -> None:
        from spatialvla.simulation.widowx.env import TASKS, WidowXEnv

        self.task = TASKS[task]
        self.arm = WidowXEnv(self.task)
        self.arm.reset_to(start_state)

    def observe(self) -> dict:
        """The keys of the mapping `bridge`: picture, calibration, the gripper's position in the base frame."""
        return {
            "observation/image_0": self.arm.render(),
            "observation/intrinsics_0": self.arm.intrinsics,
            "observation/state": self.arm.tool[:3, 3],
            "prompt": self.task.instruction,
        }

    def execute(self, action: np.ndarray) -> bool:
        """One control step of (7,): meters, radians, gripper 1 = open; True once the task is done."""
        return self.arm.step(action)

    def close(self) -> None:
        self.arm.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="ws://127.0.0.1:8000")
    parser.add_argument("--task", type=int, default=1, help="0 carrot, 1 spoon, 2 blocks, 3 eggplant")
    parser.add_argument("--start-state", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()

    client = WebsocketClientPolicy(arguments.url, api_key=os.environ.get("SPATIALVLA_API_KEY"))
    told = client.get_server_metadata()
    if others := {name: told["action"][name] for name in TAKEN if told["action"][name] != TAKEN[name]}:
        raise SystemExit(f"This robot takes {TAKEN}, but the server's actions have {others}.")
    chunk = told["horizon"]
    policy = ActionChunkBroker(client, action_horizon=chunk)
    robot = WidowX(arguments.task, arguments.start_state)
    try:
        start, done, steps = robot.arm.tool[:3, 3], False, 0
        while not done and steps < arguments.steps:
            # The broker asks the server once a chunk; a picture that it does not send need not be taken.
            observation = robot.observe() if steps % chunk == 0 else {}
            done = robot.execute(policy.infer(observation)["actions"])
            steps += 1
        moved = np.linalg.norm(robot.arm.tool[:3, 3] - start)
        outcome = "done" if done else "not done"
        print(f"{robot.task.instruction}: {outcome} after {steps} steps, {moved * 100:.0f} cm from the start")
    finally:
        robot.close()


if __name__ == "__main__":
    main()

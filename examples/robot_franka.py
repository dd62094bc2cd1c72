"""A Franka arm that asks a policy server what to do: here LIBERO's simulated arm, with methods to replace by yours.

    spatialvla serve --policy nano --mapping plain --limits libero
    MUJOCO_GL=egl python examples/robot_franka.py --task 0
    MUJOCO_GL=egl python examples/robot_franka.py --task 0 --asynchronous

The client needs NumPy, msgpack and websockets (pip install spatialvla-client); only the simulated arm needs
more.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

from spatialvla_client import AsynchronousLoop, Client, Observation

CONTROL_HZ = 20
MOST_STEPS = 220


class Franka:
    """What a robot has to be able to do. This one is simulated."""

    def __init__(self, task: int, start_state: int) -> None:
        from spatialvla.simulation.libero.env import LiberoEnv
        from spatialvla.simulation.libero.tasks import tasks

        self.task = tasks("libero_spatial")[task]
        self.arm = LiberoEnv(self.task, image_size=128)
        self.arm.reset_to(self.task.start_states()[start_state])
        self.arm.settle()
        self.steps = 0
        self.done = False

    def observe(self) -> Observation:
        """One picture of the fixed camera, its calibration, and where the gripper is.

        On a robot: the camera's frame as RGB, K of that frame, and the end effector's position in the base
        frame.
        """
        return Observation(
            image=self.arm.render(),
            instruction=self.task.language,
            intrinsics=self.arm.intrinsics,
            position=self.arm.gripper_position,
        )

    def execute(self, action: np.ndarray) -> bool:
        """One control step; True once the episode is over.

        action: (7,) Δx Δy Δz in meters, a rotation vector in radians, and the gripper, 1 = open. On a robot:
        add the first six to the gripper's pose, and give the sum to a Cartesian controller that has limits of
        its own. The simulated controller counts in steps of 5 cm and 0.5 rad.
        """
        self.done = self.arm.step(action / [*[0.05] * 3, *[0.5] * 3, 1])
        self.steps += 1
        return self.done or self.steps >= MOST_STEPS

    def close(self) -> None:
        self.arm.simulator.close()


def units_of(client: Client) -> np.ndarray:
    """(7,) What to multiply an action with to get meters, radians and a gripper that is open at 1."""
    told = client.metadata["action"]
    if told["gripper_open"] != 1:
        raise SystemExit("This robot's gripper is open at 1; start the server with --mapping plain.")
    if told["meters_per_unit"] is None or told["radians_per_unit"] is None:
        raise SystemExit("The server does not know its actions' units; start it with --limits that say them.")
    taken = {"rotation": "rotation_vector", "frame": "base", "control_hz": CONTROL_HZ}
    if others := {name: told[name] for name in taken if told[name] not in (None, taken[name])}:
        raise SystemExit(f"This robot takes {taken}, but the server's actions have {others}.")
    return np.array([*[told["meters_per_unit"]] * 3, *[told["radians_per_unit"]] * 3, 1.0])


def chunk_by_chunk(robot: Franka, client: Client, units: np.ndarray) -> None:
    """Look, execute the whole chunk, look again. The arm stands still while the server thinks."""
    while True:
        for action in client.act(robot.observe()).actions:
            began = time.monotonic()
            if robot.execute(action * units):
                return
            time.sleep(max(0.0, 1 / CONTROL_HZ - (time.monotonic() - began)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="ws://127.0.0.1:8000")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--start-state", type=int, default=0)
    parser.add_argument(
        "--asynchronous", action="store_true", help="infer the next chunk during the last one"
    )
    arguments = parser.parse_args()

    robot = Franka(arguments.task, arguments.start_state)
    key = os.environ.get("SPATIALVLA_API_KEY")
    try:
        with Client(arguments.url, api_key=key) as client:
            units = units_of(client)
            if arguments.asynchronous:
                with AsynchronousLoop(client.infer, CONTROL_HZ) as loop:
                    loop.run(robot.observe, lambda action: robot.execute(action * units))
                    print(loop.statistics)
            else:
                chunk_by_chunk(robot, client, units)
        print(f"{robot.task.language}: {'done' if robot.done else 'not done'} after {robot.steps} steps")
    finally:
        robot.close()


if __name__ == "__main__":
    main()

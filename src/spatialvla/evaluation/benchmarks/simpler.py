"""SimplerEnv's WidowX tasks as a benchmark: its rules, and its tasks as environments."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spatialvla.actions.units import BRIDGE, STANDARD_GRIPPER, ActionUnits
from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import FIRST_CAMERA_ALONE, Conventions, Inputs
from spatialvla.geometry.rotations import euler, matrices
from spatialvla.simulation.widowx.env import CAMERA, CONTROL_HZ, START_STATES, SUITE, TASKS, WidowXEnv
from spatialvla.types import Observation

SUITES = (SUITE,)

IN_METERS = replace(BRIDGE, control_hz=None)
"""What the WidowX's controller takes, at any rate."""


@dataclass(frozen=True)
class SimplerBenchmark:
    """The four WidowX tasks of SimplerEnv (Li et al. 2024, arXiv 2405.05941) in ManiSkill 3, visual matching.

    units: of the policy's actions; lengths and angles are scaled, and rotation vectors turned into angles.
    inputs: what it takes beside its first camera, of which there is nothing here.
    """

    packages = ("mani-skill", "sapien")

    units: ActionUnits = IN_METERS
    inputs: Inputs = FIRST_CAMERA_ALONE

    @classmethod
    def for_policy(cls, image_size: int, units: ActionUnits, inputs: Inputs) -> SimplerBenchmark:
        """What the policy does not say of its actions is taken to be as the controller has it."""
        filled = units.filled(IN_METERS)
        return cls(replace(filled, frame="base", gripper=STANDARD_GRIPPER, control_hz=None), inputs)

    @property
    def left_out(self) -> tuple[str, ...]:
        """All but the first camera: SimplerEnv shows one picture, and tells no state."""
        state = ("the arm's state",) if self.inputs.state_names else ()
        return (*(f"the camera {name!r}" for name in self.inputs.cameras), *state)

    @property
    def takes(self) -> ActionUnits:
        """The policy's lengths and angles, which are scaled, in the base's frame at 5 Hz."""
        return replace(self.units, control_hz=float(CONTROL_HZ))

    def instructions(self, suite: str) -> list[str]:
        """Each task's instruction, by task number; InputError for an unknown suite."""
        _check(suite)
        return [task.instruction for task in TASKS]

    def most_episodes(self, suite: str, task: int) -> int | None:
        """SimplerEnv's number of start states, the same for each task."""
        return START_STATES

    def conventions(self, suite: str) -> Conventions:
        """The rules of the suite, as SimplerEnv plays it."""
        _check(suite)
        return Conventions(
            time_limit=tuple(task.time_limit for task in TASKS),
            camera=CAMERA,
            image_size=640,
            image="640 x 480 RGB, upright; intrinsics are those ManiSkill gives for it",
            rendering="robot and objects rendered in software, the photograph laid over everything else",
            action="metres in the base frame and radians, relative to the controller's last target; "
            f"the policy's unit is {self.units.meters:g} m, {self.units.radians:g} rad",
            gripper="policy: 1 = open, 0 = closed; sent to the controller as +1 above 0.5, else -1",
            control_hz=CONTROL_HZ,
            settle_steps=0,
            settle_action=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
            start_states="episode i is SimplerEnv's obj_episode i, in a scene built anew",
            success="ManiSkill's goal predicate after the last step; episodes always last to the time limit",
            ends_on_success=False,
            partial="the object to move was grasped at any time (is_src_obj_grasped)",
            rotation="roll, pitch, yaw of Rz(yaw) Ry(pitch) Rx(roll) about the base's axes, applied to the "
            "controller's last target; sent as the angles of Rx Ry Rz of the same rotation",
            crop="none: all of the rendered image is resized to the model's",
            seeds="nothing is random",
        )

    def open(self, suite: str, task: int, conventions: Conventions) -> SimplerTask:
        """Builds the environment of one task."""
        _check(suite)
        return SimplerTask(WidowXEnv(TASKS[task]), self.units)


class SimplerTask:
    """One task of SimplerEnv, built once and played many times."""

    ended = False
    chose = None

    def __init__(self, env: WidowXEnv, units: ActionUnits) -> None:
        self.env = env
        self._units = units

    @property
    def partial(self) -> bool:
        """Whether the object to move was grasped at any time in this episode."""
        return self.env.grasped

    def start(self, start_state: int) -> None:
        """Places robot and objects as SimplerEnv's episode of that number; InputError if there is none."""
        if start_state >= START_STATES:
            raise InputError(
                f"SimplerEnv plays {START_STATES} start states of each WidowX task; "
                f"play at most {START_STATES} episodes a task."
            )
        self.env.reset_to(start_state)

    def step(self, action: np.ndarray) -> bool:
        """One control step (0.2 s) of a policy's action (7,), gripper 1 = open; True while the goal holds."""
        return self.env.step(in_meters(action, self._units))

    def observe(self, depth: bool) -> Observation:
        """The camera's picture, its intrinsics, where it stands and, if asked for, its depth in meters."""
        image, meters = self.env.render_rgbd() if depth else (self.env.render(), None)
        return Observation(image, self.env.task.instruction, self.env.intrinsics, meters, self.env.extrinsics)

    @property
    def gripper_position(self) -> np.ndarray:
        """(3,) meters in the robot's frame: the point between the fingers."""
        return self.env.tool[:3, 3]

    def close(self) -> None:
        """Gives the renderer back."""
        self.env.close()


def in_meters(action: np.ndarray, units: ActionUnits) -> np.ndarray:
    """An action (7,) in some units -> meters, and radians of roll, pitch and yaw."""
    scaled = action * np.repeat([units.meters or 1.0, units.radians or 1.0, 1.0], [3, 3, 1])
    if units.rotation == "rotation_vector":
        scaled[3:6] = euler(matrices(scaled[None, 3:6], "axis_angle"))[0]
    return np.asarray(scaled)


def _check(suite: str) -> None:
    if suite not in SUITES:
        raise InputError(f"SimplerEnv has no suite {suite!r} here; {did_you_mean(suite, SUITES)}")

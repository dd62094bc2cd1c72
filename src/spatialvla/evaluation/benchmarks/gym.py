"""Any Gymnasium environment as a benchmark: the rules that its mapping states, and the environment as its one task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.actions.units import ActionUnits
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import FIRST_CAMERA_ALONE, Benchmark, Conventions, Inputs
from spatialvla.simulation.gym.env import STILL, GymEnv
from spatialvla.simulation.gym.mapping import ByFeature, CameraLines, FromReward, GymMapping
from spatialvla.types import Observation


def checked_gym(env_id: str, file: str | Path) -> Callable[[int, ActionUnits, Inputs], Benchmark]:
    """How the benchmark is made for a policy, as the entries of `BENCHMARKS`; its only suite is `env_id`.

    The environment is made once and looked at, so that a mapping that does not fit is refused before a policy is
    loaded. file: the mapping's.
    Raises InputError where environment and mapping cannot be played.
    """
    mapping = GymMapping.load(file)
    env = GymEnv(env_id, mapping)
    try:
        env.reset(mapping.first_seed)
        seen = env.observe()
    finally:
        env.close()
    side = max(np.asarray(seen.image).shape[:2])
    numbers = 0 if seen.state is None else len(seen.state)

    def for_policy(_: int, units: ActionUnits, inputs: Inputs) -> Benchmark:
        if inputs.state_names and numbers not in (0, len(inputs.state_names)):
            raise InputError(
                f"The policy takes a state of {len(inputs.state_names)} numbers ({', '.join(inputs.state_names)}), and "
                f"{file} names {numbers}; correct the line 'state', or say --without state."
            )
        return GymBenchmark(env_id, mapping, side, units, inputs)

    return for_policy


@dataclass(frozen=True)
class GymBenchmark:
    """One Gymnasium environment, by what its mapping says; episode i is `reset(seed=first_seed + i)`.

    env_id: as `gymnasium.make` takes it. image_size: longer side of its picture, pixels.
    units: of the policy's actions; lengths, angles and the notation of rotations are turned into the environment's.
    inputs: what the policy takes beside its first camera.
    """

    env_id: str
    mapping: GymMapping
    image_size: int
    units: ActionUnits
    inputs: Inputs = FIRST_CAMERA_ALONE

    @property
    def packages(self) -> tuple[str, ...]:
        """Gymnasium, and what the ID's module came with."""
        module = self.env_id.partition(":")[0].partition(".")[0] if ":" in self.env_id else ""
        return ("gymnasium", *packages_distributions().get(module, ()))

    @property
    def cameras(self) -> tuple[str, ...]:
        """The policy's further cameras that the mapping has."""
        return tuple(name for name in self.inputs.cameras if name in self.mapping.cameras)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Cameras, and a state, of which the mapping says nothing."""
        cameras = (f"the camera {name!r}" for name in self.inputs.cameras if name not in self.mapping.cameras)
        state = self.inputs.state_names and self.mapping.state is None
        return (*cameras, *(("the arm's state",) if state else ()))

    @property
    def takes(self) -> ActionUnits:
        """The policy's lengths and angles, which are scaled, in the environment's frame at its rate."""
        theirs = self.mapping.units
        filled = self.units.filled(theirs)
        return replace(filled, frame=theirs.frame, gripper=theirs.gripper, control_hz=theirs.control_hz)

    def instructions(self, suite: str) -> list[str]:
        """The one task's instruction, or where it comes from."""
        told = self.mapping.instruction
        return [f"as {told.feature} says" if isinstance(told, ByFeature) else told]

    def most_episodes(self, suite: str, task: int) -> int | None:
        """As many as are asked for: each has a seed of its own."""
        return None

    def conventions(self, suite: str) -> Conventions:
        """The rules that the mapping states."""
        mapping, action = self.mapping, self.mapping.action
        ours = self.units.filled(mapping.units)
        others = "".join(f"; {name}: {mapping.cameras[name].image}" for name in self.cameras)
        turns = action.rotation != "none"
        unit = f"1 = {action.meters:g} m" + (f" or {action.radians:g} rad" if turns else "")
        policys = f"{ours.meters:g} m" + (f", {ours.radians:g} rad" if turns else "")
        gripper = mapping.gripper
        success = mapping.success
        return Conventions(
            time_limit=mapping.max_steps,
            camera=f"{mapping.image}{others}",
            image_size=self.image_size,
            image=_picture(mapping),
            rendering=f"the environment's own, gymnasium.make({_arguments(mapping.make)}); mapping {mapping.digest}",
            action=f"motions of the hand along the axes of its {action.frame}, {unit}, cut off at the bounds of the "
            f"environment's action; the policy's unit is {policys}",
            gripper="none"
            if gripper is None
            else "policy: 1 = open, 0 = closed; sent in proportion, as "
            f"{gripper.open:g} where it is open and {gripper.closed:g} where it is closed",
            control_hz=mapping.control_hz,
            settle_steps=mapping.settle_steps,
            settle_action=STILL,
            start_states=f"episode i is reset(seed={mapping.first_seed} + i)"
            + (f", with the options {_arguments(mapping.reset)}" if mapping.reset else ""),
            success=f"a reward of at least {success.reward:g}"
            if isinstance(success, FromReward)
            else f"what the environment says in {success}, checked after every step",
            ends_on_success=mapping.ends_on_success,
            rotation=f"sent as {action.rotation}" if turns else "the hand does not turn; nothing is sent",
            crop="none: all of the picture is resized to the model's",
            seeds="all that reset(seed) decides; nothing is known of what an environment draws otherwise",
            state=" and ".join(mapping.state.feature) if mapping.state and self.inputs.state_names else "",
        )

    def open(self, suite: str, task: int, conventions: Conventions) -> GymTask:
        """Makes the environment."""
        gives_state = bool(self.inputs.state_names)
        mapping = self.mapping if gives_state else replace(self.mapping, state=None)
        return GymTask(GymEnv(self.env_id, mapping, self.units, self.cameras), mapping.first_seed)


class GymTask:
    """A Gymnasium environment as a task. first_seed: of start state 0."""

    partial = None
    chose = None
    gripper_position = None

    def __init__(self, env: GymEnv, first_seed: int) -> None:
        self._env, self._first_seed = env, first_seed

    @property
    def ended(self) -> bool:
        """Whether the environment has ended the episode."""
        return self._env.ended

    def start(self, start_state: int) -> None:
        """Resets the environment with the start state's seed, and lets things settle."""
        self._env.reset(self._first_seed + start_state)

    def step(self, action: np.ndarray) -> bool:
        """One control step of a policy's action (7,), gripper 1 = open; whether it succeeds in this step."""
        return self._env.step(action)

    def observe(self, depth: bool) -> Observation:
        """What the mapping names: pictures with what is known of their cameras, the instruction and the state."""
        return self._env.observe(depth)

    def close(self) -> None:
        """Gives the renderer back."""
        self._env.close()


def _picture(lines: CameraLines) -> str:
    turned = {
        (): "as it is drawn",
        ("rows",): "its rows turned around",
        ("columns",): "its columns turned around",
    }.get(lines.flip, "turned by 180 degrees")
    return f"RGB, {turned}; K and extrinsics are those of the picture that the policy gets"


def _arguments(values: Mapping[str, Any]) -> str:
    """As they are written in Python."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())

"""The conventions of vla-eval's benchmarks as data: what they show, what they take, and whose actions fit.

Read from vla-eval 0.8.0's benchmark classes, SimplerEnv's published evaluation of SpatialVLA
(github.com/simpler-env/SimplerEnv, simpler_env/policies/spatialvla) and its simulator's cameras
(github.com/simpler-env/ManiSkill2_real2sim).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from spatialvla.actions.fitting import check_fit
from spatialvla.actions.published_units import published_units
from spatialvla.actions.units import LIBERO as LIBERO_UNITS
from spatialvla.actions.units import ActionUnits
from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError
from spatialvla.execution import WHOLE_CHUNKS, Execution
from spatialvla.geometry import known_cameras
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.rotations import PANDA_DOWN, towards
from spatialvla.simulation.recording.demonstration import RECORDED_ROTATION
from spatialvla.types import CameraImage, Observation

RotationConvention = Literal["as_trained", "rotation_vector"]
GripperConvention = Literal["minus_one_opens", "one_opens", "sticky"]


@dataclass(frozen=True)
class HarnessCamera:
    """One more camera that a benchmark shows where it is asked to.

    image: key of its picture among the observation's images. camera: of that picture, which has its height and width.
    parameter: of the benchmark's constructor, that has to be true.
    """

    image: str
    camera: Camera
    parameter: str


@dataclass(frozen=True)
class HarnessState:
    """The arm's numbers that a benchmark sends where it is asked to.

    key: in the observation. size: how many they are. layout: what they are, as the harness's specs call it.
    parameters: of the benchmark's constructor. word: in the names of the numbers of policies that take this state;
    empty for the others. rotation_towards: the axis to which their rotation vector keeps, see `towards`.
    """

    key: str
    size: int
    layout: str
    parameters: Mapping[str, Any]
    word: str = ""
    rotation_towards: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class PolicyNeeds:
    """What a policy takes of what a benchmark has: its first camera, others by its names for them, and the state.

    own_cameras: with the benchmark's intrinsics, not the checkpoint's. required: whether all of it has to come.
    """

    first: str
    cameras: tuple[str, ...] = ()
    state: HarnessState | None = None
    own_cameras: bool = True
    required: bool = False


@dataclass(frozen=True)
class HarnessBenchmark:
    """What one benchmark of the harness sends and expects.

    harness_class: its import path in vla-eval. image: key of the picture among the observation's images.
    camera: of that picture, which has the camera's height and width. orientation: how the pictures lie.
    mirrored: they are flipped left to right. cameras: more that it can show, by the names that policies have for them.
    states: of which it can send any; the first whose word fits is a policy's.
    units: of the actions that the benchmark takes.
    task_prefixes: beginnings of the suites or task names that belong to it.
    rotation: "as_trained" sends the policy's three numbers as they are, "rotation_vector" turns roll, pitch,
    yaw into one. gripper: see `commands.Gripper`.
    execution: how chunks are executed, unless the policy is asked for something else than whole chunks.
    position_spec, rotation_spec, gripper_spec: (format, low, high) as the harness labels its action slots.
    parameters: of the benchmark's constructor, where the harness's own configuration has no others.
    """

    name: str
    harness_class: str
    image: str
    camera: Camera
    orientation: str
    units: ActionUnits
    task_prefixes: tuple[str, ...]
    rotation: RotationConvention
    gripper: GripperConvention
    execution: Execution
    position_spec: tuple[str, float, float]
    rotation_spec: tuple[str, float, float]
    gripper_spec: tuple[str, float, float]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    mirrored: bool = False
    cameras: Mapping[str, HarnessCamera] = field(default_factory=dict)
    states: tuple[HarnessState, ...] = ()

    def state_for(self, names: Sequence[str]) -> HarnessState | None:
        """The state of a policy whose numbers have these names; None where the benchmark has none for it."""
        fitting = (one for one in self.states if any(one.word in name for name in names))
        return next((one for one in fitting if one.size == len(names)), None)

    def check_policy(self, units: ActionUnits, *, unknown_units: bool = False) -> None:
        """Raises InputError where the policy's actions are another robot's.

        unknown_units: whether it is enough that nothing contradicts.
        """
        advice = "choose another --benchmark, or a checkpoint and --dataset that fit"
        check_fit(units, self.units, self.name, unknown_units=unknown_units, advice=advice)

    def check_task(self, task: object) -> None:
        """Raises InputError for a task of another benchmark. task: as the harness announces an episode."""
        said = (task.get("suite") or task.get("task_name")) if isinstance(task, Mapping) else None
        if said is not None and not str(said).startswith(self.task_prefixes):
            raise InputError(
                f"This server plays {self.name}, but the episode is one of {str(said)[:100]}; start the server with "
                "the --benchmark that fits."
            )

    def sizes(self, needs: PolicyNeeds) -> dict[str, tuple[int, int]]:
        """Height and width of the pictures that a policy takes, by their keys."""
        cameras = {self.image: self.camera}
        cameras |= {self.cameras[name].image: self.cameras[name].camera for name in needs.cameras}
        return {key: (camera.height, camera.width) for key, camera in cameras.items()}

    def parameters_for(self, needs: PolicyNeeds) -> dict[str, Any]:
        """Of the benchmark's constructor, so that it sends what a policy takes."""
        parameters = {**self.parameters, **{self.cameras[name].parameter: True for name in needs.cameras}}
        return {**parameters, **needs.state.parameters} if needs.state else parameters

    def observation(self, message: Mapping[str, Any], needs: PolicyNeeds) -> Observation:
        """The harness's observation as ours.

        Raises InputError where something is missing or a picture is not this benchmark's.
        """
        images = message.get("images")
        if not isinstance(images, Mapping) or self.image not in images:
            found = _shown(images) if isinstance(images, Mapping) else "none"
            raise InputError(f"{self.name} sends images.{self.image}, but the observation has {found}.")
        first = self._seen(images, self.image, self.camera, needs)
        others = {
            name: self._seen(images, self.cameras[name].image, self.cameras[name].camera, needs)
            for name in needs.cameras
            if needs.required or self.cameras[name].image in images
        }
        instruction = message.get("task_description")
        if not isinstance(instruction, str):
            raise InputError(
                f"The observation has no task_description; {self.name} sends it with every step."
            )
        state = self._numbers(message, needs)
        return Observation(**vars(first), instruction=instruction, images=others, state=state)

    def _seen(self, images: Mapping[Any, Any], key: str, camera: Camera, needs: PolicyNeeds) -> CameraImage:
        if key not in images:
            raise InputError(
                f"The policy needs images.{key}, but the observation has {_shown(images)}; leave the benchmark's "
                "parameters to the server."
            )
        picture = images[key]
        # Of lists NumPy would make an array, in which each text is as long as the longest.
        if not isinstance(picture, np.ndarray):
            raise InputError(
                f"{self.name} sends images.{key} as a picture, but it came as a {type(picture).__name__}."
            )
        expected = (camera.height, camera.width, 3)
        if picture.shape != expected or picture.dtype != np.uint8:
            raise InputError(
                f"{self.name} sends images.{key} as {expected} uint8, but it came as {picture.shape} "
                f"{picture.dtype}; the camera's intrinsics would not fit."
            )
        intrinsics = camera.intrinsics if needs.own_cameras else None
        return CameraImage(picture, intrinsics, mirrored=self.mirrored)

    def _numbers(self, message: Mapping[str, Any], needs: PolicyNeeds) -> np.ndarray | None:
        """(S,) the state. Raises InputError where it is missing and required, or something else."""
        state = needs.state
        if state is None:
            return None
        numbers = message.get(state.key)
        if numbers is None:
            if needs.required:
                raise InputError(
                    f"The policy needs {state.key}, which the observation lacks; leave the benchmark's parameters "
                    "to the server."
                )
            return None
        if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "fiu":
            raise InputError(f"{self.name} sends {state.key} as an array of numbers.")
        if numbers.shape != (state.size,):
            raise InputError(
                f"{self.name} sends {state.key} as {state.size} numbers, but it came as {numbers.shape}."
            )
        if not np.isfinite(numbers).all():
            raise InputError(f"{state.key} contains NaN or infinity.")
        numbers = numbers.astype(np.float64)
        if state.rotation_towards is not None:
            numbers[_ROTATION] = towards(state.rotation_towards, numbers[_ROTATION])
        return numbers


def _shown(names: Mapping[Any, Any]) -> str:
    """The first of a message's names, however many and long they are."""
    return ", ".join(str(name)[:40] for name, _ in zip(names, range(12), strict=False)) or "none"


# The bound of a rotation in the harness's specs, a little more than π.
_TURN = 3.15

_LIBERO_STATE = "eef_pos3_axisangle3_gripper2"
_ROTATION = slice(3, 6)

LIBERO = HarnessBenchmark(
    name="libero",
    harness_class="vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark",
    image="agentview",
    camera=known_cameras.LIBERO_AGENTVIEW,
    orientation="rotated by 180 degrees by the harness, as in LIBERO's datasets",
    units=LIBERO_UNITS,
    task_prefixes=("libero",),
    # OSC_POSE takes a scaled rotation vector, and LIBERO's datasets hold what it took.
    rotation="as_trained",
    gripper="minus_one_opens",
    execution=WHOLE_CHUNKS,
    position_spec=("delta_xyz", -1, 1),
    rotation_spec=("axis_angle", -_TURN, _TURN),
    gripper_spec=("binary_close_positive", -1, 1),
    parameters={"num_steps_wait": 10, "absolute_action": False},
    mirrored=True,
    cameras={"wrist": HarnessCamera("wrist", known_cameras.LIBERO_WRIST.camera, "send_wrist_image")},
    # Rotations are the fingertips', as `record` has them, or the hand's, as LIBERO's datasets do: robosuite's vectors,
    # which may be longer than a half turn.
    states=(
        HarnessState(
            "controller_states", 8, _LIBERO_STATE, {"send_state": True}, RECORDED_ROTATION, PANDA_DOWN
        ),
        HarnessState("states", 8, _LIBERO_STATE, {"send_state": True, "quat_no_antipodal": True}),
    ),
)


def _simpler(
    name: str,
    *,
    camera: Camera,
    dataset: str,
    task_prefix: str,
    gripper: GripperConvention,
    gripper_mode: Literal["binary", "sticky"],
) -> HarnessBenchmark:
    """SimplerEnv with one of its robots.

    The controllers read a rotation vector, and +1 opens the WidowX's gripper, although the harness labels
    these slots euler_xyz and close_positive: the labels are kept, so that its own comparison holds.
    """
    return HarnessBenchmark(
        name=name,
        harness_class="vla_eval.benchmarks.simpler.benchmark:SimplerEnvBenchmark",
        image="primary",
        camera=camera,
        orientation="upright",
        units=published_units(dataset),
        task_prefixes=(task_prefix,),
        rotation="rotation_vector",
        gripper=gripper,
        execution=Execution("temporal", temperature=-0.8),
        position_spec=("delta_xyz", -1, 1),
        rotation_spec=("euler_xyz", -_TURN, _TURN),
        gripper_spec=("binary_close_positive", -1, 1),
        parameters={"gripper_mode": gripper_mode, "success_mode": "truncation"},
    )


SIMPLER_WIDOWX = _simpler(
    "simpler_widowx",
    camera=known_cameras.BRIDGE,
    dataset="bridge_orig",
    task_prefix="widowx_",
    gripper="one_opens",
    gripper_mode="binary",
)

SIMPLER_GOOGLE_ROBOT = _simpler(
    "simpler_google_robot",
    camera=known_cameras.SIMPLER_GOOGLE_ROBOT,
    dataset="fractal20220817_data",
    task_prefix="google_robot_",
    gripper="sticky",
    gripper_mode="sticky",
)

BENCHMARKS = {entry.name: entry for entry in (LIBERO, SIMPLER_WIDOWX, SIMPLER_GOOGLE_ROBOT)}


def benchmark_called(name: str) -> HarnessBenchmark:
    """The conventions of a benchmark by name. Raises InputError for an unknown one."""
    if name not in BENCHMARKS:
        raise InputError(f"There is no benchmark {name!r}; {did_you_mean(name, BENCHMARKS)}")
    return BENCHMARKS[name]

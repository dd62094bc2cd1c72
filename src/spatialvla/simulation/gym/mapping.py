"""A few lines of YAML that say what a Gymnasium environment shows, and what its actions are.

instruction: reach the green target        # or {feature: info/language}
make: {render_width: 256}                  # arguments of gymnasium.make
reset: {difficulty: 2}                     # options of reset
image: render                              # what render() returns, or a feature
depth: {feature: observation/depth, meters: 0.001}   # of the same picture; what 1 is: here millimeters
flip: [rows]                               # what is turned around before the policy sees it; both are 180 degrees
field_of_view: 60                          # vertical, degrees; or intrinsics: a feature, or {K: …, height: …, width: …}
extrinsics: {feature: info/camera_pose}    # camera -> robot base; or {matrix: […]} of a camera that stands still
cameras: {wrist: {image: observation/wrist}}   # further ones, by the policy's names, with the same lines each
calibration: robot.yaml                    # of the cameras by name (the first is `image`); from this file's folder
gripper_pose: {feature: observation/pose, rotation: axis_angle}   # for cameras that the gripper carries
state: {feature: observation/state, indices: [0, 1, 2, 6]}
action:
  indices: [0, 1, 2, 3, 4, 5, 6]           # of translation, rotation and gripper; all in order unless given
  meters: 0.05                             # what 1 is
  radians: 0.5
  rotation: axis_angle                     # or euler, or none where the hand does not turn
  frame: base                              # whose axes the motions are along, or gripper
gripper: {open: 1, closed: -1}             # left out where there is none
control_hz: 20
success: info/is_success                   # or terminated, or {reward: 0.5}: from which reward on
max_steps: 100
settle_steps: 5                            # still ones before the first picture
first_seed: 0                              # of episode 0

A feature is a place in what `reset` and `step` return: observation/… or info/…, with a / between the keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from spatialvla.actions.units import STANDARD_GRIPPER, ActionUnits, Frame, Rotation
from spatialvla.common.entries import from_entries, load_entries
from spatialvla.data.mapping_lines import Extrinsics, GripperPose, Intrinsics, StateMapping
from spatialvla.errors import InputError

RENDER = "render"
"""Stands for what the environment's `render` returns."""

_ROTATIONS: Mapping[str, Rotation | None] = {"euler": "euler", "axis_angle": "rotation_vector", "none": None}
_ROOTS = ("observation", "info")
_OURS = ("id", "render_mode", "max_episode_steps", "disable_env_checker")


@dataclass(frozen=True)
class DepthFeature:
    """Where the depth of a picture is. meters: what 1 is in it."""

    feature: str
    meters: float = 1.0

    def __post_init__(self) -> None:
        _check_features(self.feature)
        if not 0 < self.meters < np.inf:
            raise InputError(f"depth meters must be positive and finite, not {self.meters:g}.")


@dataclass(frozen=True)
class CameraLines:
    """One camera. K and extrinsics are those of the picture as the policy sees it, after `flip`.

    image: `render`, or the feature of the RGB picture. depth: of its depth along the optical axis, in meters unless it
    says otherwise. flip: the axes that are turned around.
    field_of_view: vertical, in degrees, of a camera with square pixels that looks through the picture's center.
    intrinsics, extrinsics: a feature, or what the environment does not tell. None leaves the policy to its own camera.
    """

    image: str
    depth: str | DepthFeature | None = None
    flip: tuple[Literal["rows", "columns"], ...] = ()
    field_of_view: float | None = None
    intrinsics: str | Intrinsics | None = None
    extrinsics: Extrinsics | None = None

    def __post_init__(self) -> None:
        if self.field_of_view is not None and self.intrinsics is not None:
            raise InputError("a camera has a field_of_view or intrinsics; leave one out.")
        if self.field_of_view is not None and not 1 <= self.field_of_view <= 150:
            raise InputError(f"a field_of_view is 1 to 150 degrees, not {self.field_of_view:g}.")
        if len(set(self.flip)) < len(self.flip):
            raise InputError(f"flip names {self.flip[0]} twice; name each axis once.")
        if self.image != RENDER:
            _check_features(self.image)
        _check_features(*(told for told in (self.depth, self.intrinsics) if isinstance(told, str)))
        _check_features(self.extrinsics.feature if self.extrinsics else None)


@dataclass(frozen=True)
class ActionLines:
    """The environment's action: a motion of the hand in one step, with what 1 in it is.

    indices: of translation, rotation and gripper among its numbers; the others stay 0.
    radians: of 1 in the rotation; None where the hand does not turn.
    """

    meters: float
    rotation: Literal["euler", "axis_angle", "none"]
    frame: Frame
    radians: float | None = None
    indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        ActionUnits(self.meters, self.radians)  # raises for numbers that cannot be
        if (self.radians is None) != (self.rotation == "none"):
            raise InputError(
                "action needs the line 'radians' where the hand turns, and none with 'rotation: none'."
            )
        if len(set(self.indices)) < len(self.indices) or min(self.indices, default=0) < 0:
            raise InputError(f"action indices are different numbers from 0, not {list(self.indices)}.")


@dataclass(frozen=True)
class GripperEnds:
    """What the environment's action says for an open and a closed gripper; what lies between is in proportion."""

    open: float
    closed: float

    def __post_init__(self) -> None:
        if not np.isfinite([self.open, self.closed]).all() or self.open == self.closed:
            raise InputError(
                f"a gripper has two different finite ends, not {self.open:g} and {self.closed:g}."
            )


@dataclass(frozen=True)
class ByFeature:
    """Something that the environment tells."""

    feature: str

    def __post_init__(self) -> None:
        _check_features(self.feature)


@dataclass(frozen=True)
class FromReward:
    """An episode succeeds in the step whose reward is at least this."""

    reward: float

    def __post_init__(self) -> None:
        if not np.isfinite(self.reward):
            raise InputError(f"a reward of success is finite, not {self.reward:g}.")


@dataclass(frozen=True, kw_only=True)
class GymMapping(CameraLines):
    """How one environment is looked at and moved; docs/how-to/gymnasium.md explains each line.

    make, reset: further arguments of `gymnasium.make`, and the options of every `reset`.
    control_hz: steps a second. max_steps: after settling. ends_on_success: whether an episode ends once it succeeds;
    else it counts as it ends.
    Raises InputError for what cannot be used.
    """

    instruction: str | ByFeature
    action: ActionLines
    control_hz: int
    success: str | FromReward
    max_steps: int
    gripper: GripperEnds | None = None
    state: StateMapping | None = None
    cameras: Mapping[str, CameraLines] = field(default_factory=dict)
    calibration: str | None = None
    gripper_pose: GripperPose | None = None
    make: dict = field(default_factory=dict)  # type: ignore[type-arg]  # the environment's own arguments
    reset: dict = field(default_factory=dict)  # type: ignore[type-arg]
    settle_steps: int = 0
    first_seed: int = 0
    ends_on_success: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("control_hz", 1), ("max_steps", 1), ("settle_steps", 0), ("first_seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is at least {least}, not {getattr(self, name)}.")
        if isinstance(self.instruction, str) and not self.instruction.strip():
            raise InputError("the instruction is empty; say what is to be done.")
        if taken := sorted(set(self.make) & set(_OURS)):
            raise InputError(f"make has no {taken[0]!r}, which is set here.")
        if isinstance(self.success, str) and self.success != "terminated":
            _check_features(self.success)
        _check_features(*(self.state.feature if self.state else ()))
        _check_features(*(self.gripper_pose.feature if self.gripper_pose else ()))
        if self.action.indices and len(self.action.indices) != self.numbers:
            raise InputError(
                f"action indices name {len(self.action.indices)} numbers, and there are {self.numbers}: 3 of the "
                f"translation, {self.numbers - 3 - bool(self.gripper)} of the rotation, {int(bool(self.gripper))} of "
                "the gripper."
            )

    @property
    def numbers(self) -> int:
        """How many of the environment's action move the hand and the gripper."""
        return 3 + 3 * (self.action.rotation != "none") + (self.gripper is not None)

    @property
    def units(self) -> ActionUnits:
        """Of the environment's actions. The rotation is None where the hand does not turn."""
        action = self.action
        gripper = STANDARD_GRIPPER if self.gripper else None
        rotation = _ROTATIONS[action.rotation]
        return ActionUnits(
            action.meters, action.radians, rotation, action.frame, gripper, float(self.control_hz)
        )

    @property
    def draws(self) -> bool:
        """Whether `render` is asked for pictures."""
        return any(camera.image == RENDER for camera in (self, *self.cameras.values()))

    @property
    def digest(self) -> str:
        """The first letters of a checksum of all lines, by which two results are of the same mapping or not.

        Of a calibration what is in it counts, not where it lies.
        """
        lines = asdict(self)
        if self.calibration is not None:
            lines["calibration"] = Path(self.calibration).read_bytes()
        return hashlib.sha256(repr(lines).encode()).hexdigest()[:12]

    @classmethod
    def load(cls, path: str | Path) -> GymMapping:
        """Reads a YAML file. Raises InputError, naming it and the line's key, for what cannot be used."""
        content = load_entries(path, "mapping")
        try:
            mapping = from_entries(cls, content, "a mapping")
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if mapping.calibration is None:
            return mapping
        return replace(mapping, calibration=str(Path(path).expanduser().parent / mapping.calibration))


def _check_features(*names: str | None) -> None:
    for name in names:
        if name is not None and name.split("/")[0] not in _ROOTS:
            raise InputError(
                f"{name!r} is no feature of an environment; write observation/… or info/…, with the keys that lead "
                "to it."
            )

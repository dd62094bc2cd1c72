"""A file of YAML in place of a shipped spec: what the fields of a user's own RLDS dataset mean.

name: my_robot                         # with the version, the name of the statistics in a checkpoint
version: 1.0.0
control_hz: 10                         # steps a second
image: observation/image               # keys of a step, as in the dataset's features.json
depth: {feature: observation/depth, meters: 0.001}   # what 1 is: here millimeters
instruction: language_instruction      # of the step or of the episode; or {text: …}, or none
action:
  feature: [action/world_vector, action/rotation_delta]   # or several, which are joined
  convention: delta                    # motions; or absolute: poses, which become motions
  rotation: euler                      # or axis_angle, quaternion_xyzw, none
gripper: {feature: action/gripper, open: 0, min: -1, max: 1, commands: true}
units: {frame: base}                   # of the actions, where nothing above says them
intrinsics: {K: [[600, 0, 320], [0, 600, 240], [0, 0, 1]], height: 480, width: 640}
extrinsics: observation/pose           # camera -> robot base; or {matrix: […]} of a camera that stands still
cameras:                               # further ones by name, with the same four lines each, or the image alone
  wrist: {image: observation/wrist_image, depth: {feature: observation/wrist_depth}}
calibration: robot.yaml                # of the robot's cameras by name; from this file's folder
gripper_pose: {feature: observation/state, indices: [0, 1, 2, 3, 4, 5]}   # for cameras that the gripper carries
state: {feature: observation/state, indices: [0, 1, 2, 6]}   # of the arm; all numbers unless given
skip: 1                                # steps to leave out at an episode's start
drop_no_ops: true                      # leave out samples that start without motion; or drop_still_chunks
other_image: observation/image_2       # a second camera, that every other episode is seen from
channels: bgr                          # where red and blue are swapped
keep_if: success                       # a feature that is true of the episodes to keep
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spatialvla.actions.published_units import published_units
from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.common.entries import from_entries, load_entries
from spatialvla.data.hand_motions import GripperMapping, HandMotion
from spatialvla.data.mapping_lines import (
    FIRST_CAMERA,
    ActionMapping,
    Extrinsics,
    GripperPose,
    Intrinsics,
    StateMapping,
)
from spatialvla.data.motion_units import motion_units
from spatialvla.data.oxe.names import rlds_spec
from spatialvla.data.oxe.spec import RLDSCamera, RLDSSpec
from spatialvla.data.oxe.states import RLDSState
from spatialvla.errors import InputError

NONE = "none"
"""In place of a key: the dataset has no such thing."""


@dataclass(frozen=True)
class DescribedActions:
    """The action of an `RLDSSpec` that a file describes."""

    motion: HandMotion

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """(T, 7) of the arrays under the motion's features, in their order."""
        return self.motion.actions(dict(zip(self.motion.features, inputs, strict=True)))


@dataclass(frozen=True)
class _Depth:
    feature: str
    meters: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.meters < np.inf:
            raise InputError(f"depth.meters must be positive and finite, not {self.meters:g}.")


@dataclass(frozen=True)
class _FixedText:
    text: str


@dataclass(frozen=True)
class _Camera:
    """One more camera. present: a feature of the episode that is true where it was there."""

    image: str
    depth: _Depth | None = None
    intrinsics: str | Intrinsics | None = None
    extrinsics: str | Extrinsics | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    present: str | None = None

    @property
    def lines(self) -> RLDSCamera:
        """The same as in a spec."""
        stored = isinstance(self.intrinsics, str) and self.intrinsics != NONE
        return RLDSCamera(
            self.image,
            camera=self.intrinsics.camera if isinstance(self.intrinsics, Intrinsics) else None,
            intrinsics=str(self.intrinsics) if stored else None,
            extrinsics=_extrinsics(self.extrinsics),
            depth=None if self.depth is None else self.depth.feature,
            depth_meters=1.0 if self.depth is None else self.depth.meters,
            channels=self.channels,
            present=self.present,
        )


@dataclass(frozen=True)
class SpecFile:
    """The lines of the file at the top; where `like` names a shipped spec, those that differ from it are enough."""

    like: str | None = None
    name: str | None = None
    version: str | None = None
    control_hz: float | None = None
    image: str | None = None
    depth: _Depth | None = None
    instruction: str | _FixedText | None = None
    action: ActionMapping | None = None
    gripper: GripperMapping | None = None
    units: ActionUnits | None = None
    intrinsics: str | Intrinsics | None = None
    skip: int | None = None
    drop_no_ops: bool | None = None
    drop_still_chunks: bool | None = None
    other_image: str | None = None
    channels: Literal["rgb", "bgr"] | None = None
    keep_if: str | None = None
    extrinsics: str | Extrinsics | None = None
    cameras: Mapping[str, str | _Camera] | None = None
    calibration: str | None = None
    gripper_pose: GripperPose | None = None
    state: str | StateMapping | None = None

    def __post_init__(self) -> None:
        needed = ("name", "control_hz", "image", "instruction") if self.like is None else ()
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise InputError(
                f"a spec needs the line '{missing[0]}: …'; or 'like: …' a shipped spec, and what differs from it."
            )
        if self.control_hz is not None and not 0 < self.control_hz < np.inf:
            raise InputError(f"control_hz must be positive and finite, not {self.control_hz:g}.")
        if self.skip is not None and self.skip < 0:
            raise InputError(f"skip is a number of steps, not {self.skip}.")
        if self.cameras is not None and FIRST_CAMERA in self.cameras:
            raise InputError(
                f"the camera '{FIRST_CAMERA}' is the first one, whose lines stand by themselves ('image: …'); give the "
                "one under 'cameras' another name."
            )
        if isinstance(self.state, str) and self.state != NONE:
            raise InputError(
                f"state is {self.state!r}; say which numbers it is with {{feature: …}}, or none."
            )
        if self.like is not None and self.action is None and self.gripper is not None:
            raise InputError(
                f"the gripper is that of {self.like} unless the file has a line 'action: …', too."
            )

    @property
    def spec(self) -> RLDSSpec:
        """The same as the shipped ones are. Raises InputError for contradictory units and an unknown `like`."""
        if self.like is not None:
            shipped = rlds_spec(self.like)
            units = self.units or shipped.units or published_units(shipped.name)
            spec = replace(shipped, units=units)
            if self.image is not None:
                spec = _seen_from(spec, self.image)
        else:
            action = self.action or ActionMapping()
            spec = RLDSSpec(str(self.name), 1.0, DescribedActions(HandMotion(action, self.gripper)))
        plain = (
            *("name", "version", "control_hz", "image", "other_image", "skip"),
            *("drop_no_ops", "drop_still_chunks", "channels", "keep_if"),
        )
        given = {name: getattr(self, name) for name in plain if getattr(self, name) is not None}
        spec = replace(spec, **given)
        if self.channels is not None:
            spec = _in_colors(spec, self.channels)
        if self.action is not None or self.like is None:
            spec = self._described(spec)
        if self.depth is not None:
            spec = replace(spec, depth=self.depth.feature, depth_meters=self.depth.meters)
        if isinstance(self.instruction, _FixedText):
            spec = replace(spec, instruction=NONE, fixed_instruction=self.instruction.text)
        elif self.instruction is not None:
            spec = replace(spec, instruction=self.instruction)
        if isinstance(self.intrinsics, Intrinsics):
            spec = replace(spec, camera=self.intrinsics.camera)
        elif self.intrinsics is not None:
            spec = replace(spec, camera=None, intrinsics=None if self.intrinsics == NONE else self.intrinsics)
        return self._beside(spec)

    def _beside(self, spec: RLDSSpec) -> RLDSSpec:
        """With the lines of what stands beside the first camera and the actions."""
        names = ("extrinsics", "cameras", "state", "gripper_pose")
        lines = tuple(name for name in names if getattr(self, name) is not None)
        spec = replace(spec, lines=lines, calibration=self.calibration, gripper_pose=self.gripper_pose)
        if self.extrinsics is not None:
            spec = replace(spec, extrinsics=_extrinsics(self.extrinsics))
        if self.cameras is not None:
            spec = replace(spec, cameras=_further(spec, self.cameras))
        if isinstance(self.state, StateMapping):
            spec = replace(spec, state=RLDSState(self.state.feature, self.state.indices, ()))
        elif self.state is not None:
            spec = replace(spec, state=None)
        return spec

    def _described(self, spec: RLDSSpec) -> RLDSSpec:
        motion = HandMotion(self.action or ActionMapping(), self.gripper)
        return replace(
            spec,
            action=DescribedActions(motion),
            inputs=motion.features,
            first_action=motion.first_step,
            units=motion_units(motion, self.units, UNKNOWN, float(spec.control_hz)),
        )


def _seen_from(spec: RLDSSpec, image: str) -> RLDSSpec:
    """The spec without what it says of its own first camera."""
    beside = {name: camera for name, camera in spec.cameras.items() if camera.image != image}
    return replace(spec, camera=None, extrinsics=None, other_image=None, cameras=beside)


def _in_colors(spec: RLDSSpec, channels: Literal["rgb", "bgr"]) -> RLDSSpec:
    """A file says what all pictures are; what they were when they were published does not matter."""
    cameras = {name: replace(camera, channels=channels, size=None) for name, camera in spec.cameras.items()}
    return replace(spec, size=None, cameras=cameras)


def _further(spec: RLDSSpec, given: Mapping[str, str | _Camera]) -> dict[str, RLDSCamera]:
    """The spec's cameras beside the first, with what a file says of them. Raises InputError where two are one."""
    found = dict(spec.cameras)
    for name, lines in given.items():
        if lines == NONE:
            found.pop(name, None)
        else:
            found[name] = (_Camera(lines) if isinstance(lines, str) else lines).lines
    owners = {spec.image: FIRST_CAMERA}
    for name, camera in found.items():
        if camera.image in owners:
            raise InputError(
                f"the cameras '{owners[camera.image]}' and '{name}' both look through '{camera.image}'; leave one out."
            )
        owners[camera.image] = name
    return found


def _extrinsics(lines: str | Extrinsics | None) -> Extrinsics | None:
    if lines is None or isinstance(lines, Extrinsics):
        return lines
    return None if lines == NONE else Extrinsics(feature=lines)


def load_spec(path: str | Path) -> RLDSSpec:
    """A spec from its YAML file. Raises InputError, naming it and the line's key, for what cannot be used."""
    content = load_entries(path, "spec")
    try:
        spec = spec_from_dict(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if spec.calibration is None:
        return spec
    return replace(spec, calibration=str(Path(path).expanduser().parent / spec.calibration))


def spec_from_dict(content: Mapping[str, Any]) -> RLDSSpec:
    """The same from what YAML holds. Raises InputError for unknown keys, naming the closest, and wrong values."""
    return from_entries(SpecFile, content, "a spec").spec


def is_spec_file(name_or_path: str) -> bool:
    """Whether this names a spec's own file: what ends in .yaml or .yml."""
    return Path(name_or_path).suffix in (".yaml", ".yml")


def find_spec(name_or_path: str) -> RLDSSpec:
    """A spec by the name of its dataset, or by its own file: what ends in .yaml or .yml.

    Raises InputError where there is none.
    """
    if is_spec_file(name_or_path):
        return load_spec(name_or_path)
    try:
        return rlds_spec(name_or_path)
    except InputError as error:
        raise InputError(f"{error} A file of your own (.yaml) describes any other dataset.") from None

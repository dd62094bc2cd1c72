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
from spatialvla.data.mapping_lines import ActionMapping, Intrinsics
from spatialvla.data.motion_units import motion_units
from spatialvla.data.oxe.names import rlds_spec
from spatialvla.data.oxe.spec import RLDSSpec
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
            # The file says what the pictures are; what they were when they were published does not matter.
            spec = replace(spec, size=None)
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


def load_spec(path: str | Path) -> RLDSSpec:
    """A spec from its YAML file. Raises InputError, naming it and the line's key, for what cannot be used."""
    content = load_entries(path, "spec")
    try:
        return spec_from_dict(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def spec_from_dict(content: Mapping[str, Any]) -> RLDSSpec:
    """The same from what YAML holds. Raises InputError for unknown keys, naming the closest, and wrong values."""
    return from_entries(SpecFile, content, "a spec").spec


def find_spec(name_or_path: str) -> RLDSSpec:
    """A spec by the name of its dataset, or by its own file: what ends in .yaml or .yml.

    Raises InputError where there is none.
    """
    if Path(name_or_path).suffix in (".yaml", ".yml"):
        return load_spec(name_or_path)
    try:
        return rlds_spec(name_or_path)
    except InputError as error:
        raise InputError(f"{error} A file of your own (.yaml) describes any other dataset.") from None

"""A few lines of YAML that say which features of a LeRobot dataset are image, depth, action and camera.

image: observation.images.front        # where there are several cameras
action:
  feature: action                      # or several, which are joined
  indices: [0, 1, 2, 3, 4, 5, 6]       # position, rotation (0, 3 or 4), gripper; all in order unless given
  convention: absolute                 # poses, which become motions; or delta
  rotation: axis_angle                 # or euler, quaternion_xyzw, none
  frame: base                          # whose axes the motions have; or tool
  meters: 0.001                        # what 1 is in the dataset: here millimeters
gripper: {open: 0, min: 0, max: 100}   # 0 is open, 100 closed
units: {frame: base}                   # of the actions, where nothing above says them
intrinsics: {K: [[600, 0, 320], [0, 600, 240], [0, 0, 1]], height: 480, width: 640}
drop_no_ops: true
key: my_robot/1.0.0                    # the name of the statistics in a checkpoint
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import yaml

from spatialvla.actions.units import ActionUnits
from spatialvla.common.yaml_files import read_yaml
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera, check_intrinsics
from spatialvla.geometry.rotations import SIZES, Frame, Notation

INTRINSICS = "observation.intrinsics"
"""The feature that holds K (3, 3) of the image where a mapping does not say otherwise."""


@dataclass(frozen=True)
class ActionMapping:
    """Where the motion of the hand is.

    feature: the features whose numbers, joined, hold the action. from_state: the features whose numbers hold
    the pose of the hand, when the motion is to be taken from one state to the next as Bridge does; the last
    step then has none. indices: of position, rotation and gripper among them; all in order where it is empty.
    convention: `delta` motions, or `absolute` poses that were commanded, each of which becomes the motion
    from the command before, or from the pose in `relative_to` (its numbers at `relative_indices`).
    rotation: its notation, `none` where the hand does not turn. frame: in whose axes the motions made from poses are.
    meters, radians: what 1 is in the dataset; motions come out in meters and radians where they are given, and
    as they are where not.
    """

    feature: tuple[str, ...] = ("action",)
    from_state: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    convention: Literal["delta", "absolute"] = "delta"
    rotation: Notation = "euler"
    frame: Frame = "base"
    relative_to: tuple[str, ...] = ()
    relative_indices: tuple[int, ...] = ()
    meters: float | None = None
    radians: float | None = None

    @property
    def pose_size(self) -> int:
        """Numbers of position and rotation."""
        return 3 + SIZES[self.rotation]

    @property
    def of_poses(self) -> bool:
        """Whether motions are made from poses."""
        return bool(self.from_state) or self.convention == "absolute"

    def __post_init__(self) -> None:
        if self.from_state and self.convention == "absolute":
            raise InputError("from_state takes motions from poses already; leave out 'convention: absolute'.")
        if self.relative_to and self.convention != "absolute":
            raise InputError("relative_to is for poses; say 'convention: absolute', or leave it out.")
        if self.indices and len(self.indices) not in (self.pose_size, self.pose_size + 1):
            raise InputError(
                f"action indices name {len(self.indices)} numbers; with rotation {self.rotation} there are "
                f"{self.pose_size + 1}: 3 of the position, {SIZES[self.rotation]} of the rotation, 1 of the "
                "gripper."
            )
        if self.relative_indices and len(self.relative_indices) != self.pose_size:
            raise InputError(f"relative_indices needs the {self.pose_size} numbers of position and rotation.")
        for name, number in (("meters", self.meters), ("radians", self.radians)):
            if number is not None and not 0 < number < np.inf:
                raise InputError(f"{name} must be positive and finite, not {number:g}.")


@dataclass(frozen=True)
class GripperMapping:
    """How the gripper becomes 1 = open, 0 = closed.

    feature, index: where it is, the last of the action's numbers unless given. open: whether `max` (1) or
    `min` (0) is open. What lies outside of min and max is clipped.
    """

    feature: str | None = None
    index: int = 0
    open: int = 1
    min: float = 0.0
    max: float = 1.0

    def __post_init__(self) -> None:
        if self.open not in (0, 1) or not self.min < self.max:
            raise InputError("the gripper needs 'open: 1' or 'open: 0', and a min below its max.")

    def opening(self, values: np.ndarray) -> np.ndarray:
        """(T,) as stored -> (T,) in [0, 1] with 1 = open."""
        share = np.clip((values - self.min) / (self.max - self.min), 0.0, 1.0)
        return share if self.open == 1 else 1.0 - share


@dataclass(frozen=True)
class Intrinsics:
    """A camera that the dataset does not store: K in pixels of an image of this size."""

    K: tuple[tuple[float, ...], ...]
    height: int
    width: int

    def __post_init__(self) -> None:
        check_intrinsics(np.array(self.K))

    @property
    def camera(self) -> Camera:
        """The same, checked."""
        return Camera(np.array(self.K, dtype=np.float64), self.height, self.width)


@dataclass(frozen=True)
class FeatureMapping:
    """How to read one LeRobot dataset; see the top of this file.

    image: the RGB feature; the only one unless given. depth: the depth feature; that of the same camera if
    there is one. gripper: None leaves the stored number as it is. units: of the actions that come out, where
    neither the dataset nor `action` says them. intrinsics: a feature, a camera, or "none";
    None takes `observation.intrinsics` where there is one. instruction: of all episodes; the task unless
    given. drop_no_ops: leave out the samples that start without motion. key: the name of the statistics; the
    dataset's unless given.
    """

    image: str | None = None
    depth: str | None = None
    action: ActionMapping = field(default_factory=ActionMapping)
    gripper: GripperMapping | None = None
    units: ActionUnits | None = None
    intrinsics: str | Intrinsics | None = None
    instruction: str | None = None
    drop_no_ops: bool = False
    key: str | None = None

    @classmethod
    def load(cls, path: str | Path) -> FeatureMapping:
        """Read a YAML file. Raises InputError, naming it and the line's key, for what cannot be used."""
        try:
            content = read_yaml(Path(path))
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; name the mapping's YAML file.") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{path} is no readable YAML ({' '.join(str(error).split())}).") from None
        try:
            return cls.from_dict({} if content is None else content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FeatureMapping:
        """The same from what YAML holds.

        Raises InputError for unknown keys, naming the closest, and wrong values.
        """
        mapping = _read(cls, content, "")
        assert isinstance(mapping, FeatureMapping)
        return mapping


def _read(kind: type, content: Any, prefix: str) -> object:
    """A dataclass from a dictionary of its fields."""
    if not isinstance(content, Mapping):
        raise InputError(
            f"{prefix or 'a mapping'} needs lines of the form 'key: value', of {_names(kind)}; "
            f"got {content!r}."
        )
    known = [entry.name for entry in fields(kind)]
    for key in content:
        if key not in known:
            close = get_close_matches(str(key), known, n=3) or known
            raise InputError(f"unknown key '{_join(prefix, str(key))}'; the closest are {', '.join(close)}.")
    hints = get_type_hints(kind)
    values = {key: _value(hints[key], value, _join(prefix, key)) for key, value in content.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(
            f"{prefix} lacks {str(error).split(':')[-1].strip()}; it has {_names(kind)}."
        ) from None


def _value(hint: Any, value: Any, key: str) -> Any:
    """`value` as the type of the field under `key`, which is dotted."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if value is None and len(kinds) < len(get_args(hint)):
            return None
        nested = [kind for kind in kinds if hasattr(kind, "__dataclass_fields__")]
        return _value(nested[0] if nested and isinstance(value, Mapping) else kinds[0], value, key)
    if hasattr(hint, "__dataclass_fields__"):
        return _read(hint, value, key)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(f"{key} is {value!r}; choose from {', '.join(map(str, get_args(hint)))}.")
        return value
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        items = value if isinstance(value, list) else [value]
        return tuple(_value(inner, item, key) for item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{key} is {value!r}, which is no {hint.__name__}.")
    return value


def _names(kind: type) -> str:
    return ", ".join(entry.name for entry in fields(kind))


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key

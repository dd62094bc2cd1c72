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
extrinsics: observation.front_pose     # camera -> robot base; or {matrix: […]} of a camera that stands still
drop_no_ops: true
key: my_robot/1.0.0                    # the name of the statistics in a checkpoint
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spatialvla.actions.units import ActionUnits
from spatialvla.common.entries import from_entries, load_entries
from spatialvla.data.hand_motions import GripperMapping, HandMotion
from spatialvla.data.mapping_lines import ActionMapping, Extrinsics, Intrinsics
from spatialvla.errors import InputError

INTRINSICS = "observation.intrinsics"
"""The feature that holds K (3, 3) of the image where a mapping does not say otherwise."""


@dataclass(frozen=True)
class FeatureMapping:
    """How to read one LeRobot dataset; see the top of this file.

    image: the RGB feature; the only one unless given. depth: the depth feature; unless given that of the same
    camera, if there is one: observation.depth.front or observation.images.front_depth of
    observation.images.front. gripper: None leaves the stored number as it is. units: of the actions that come
    out, where neither the dataset nor `action` says them. intrinsics: a feature, a camera, or "none"; None
    takes `observation.intrinsics` where there is one. extrinsics: the same of where it stands, see `Extrinsics`;
    None takes `observation.extrinsics` where there is one. instruction: of all episodes; the task unless given.
    drop_no_ops: leave out the samples that start without motion. key: the name of the statistics; the
    dataset's unless given.
    """

    image: str | None = None
    depth: str | None = None
    action: ActionMapping = field(default_factory=ActionMapping)
    gripper: GripperMapping | None = None
    units: ActionUnits | None = None
    intrinsics: str | Intrinsics | None = None
    extrinsics: str | Extrinsics | None = None
    instruction: str | None = None
    drop_no_ops: bool = False
    key: str | None = None

    @property
    def motion(self) -> HandMotion:
        """How the features' numbers become actions."""
        return HandMotion(self.action, self.gripper)

    @classmethod
    def load(cls, path: str | Path) -> FeatureMapping:
        """Read a YAML file. Raises InputError, naming it and the line's key, for what cannot be used."""
        content = load_entries(path, "mapping")
        try:
            return cls.from_dict(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FeatureMapping:
        """The same from what YAML holds.

        Raises InputError for unknown keys, naming the closest, and wrong values.
        """
        return from_entries(cls, content, "a mapping")

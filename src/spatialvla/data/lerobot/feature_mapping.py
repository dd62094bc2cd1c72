"""A few lines of YAML that say which features of a LeRobot dataset are images, depth, action, cameras and state.

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
cameras:                               # further ones by name, with the same four lines each
  wrist: {image: observation.images.wrist, depth: observation.depth.wrist}
calibration: robot.yaml                # of the robot's cameras by name; from this file's folder
gripper_pose: {feature: observation.state, indices: [0, 1, 2, 3, 4, 5], rotation: axis_angle}   # for wrist cameras
state: {feature: observation.state, indices: [0, 1, 2, 6]}
drop_no_ops: true
key: my_robot/1.0.0                    # the name of the statistics in a checkpoint
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spatialvla.actions.units import ActionUnits
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
from spatialvla.errors import InputError

MAIN_IMAGE = "observation.images.main"
"""The feature that is looked through first where there are several and a mapping does not say which."""

INTRINSICS = "observation.intrinsics"
"""The feature that holds K (3, 3) of the image where a mapping does not say otherwise. That of the image
`observation.images.wrist` is `observation.intrinsics.wrist`, if there is one."""

PRESENT = "observation.present"
"""The feature `observation.present.wrist`, if there is one, is false where the image `observation.images.wrist` is
not of that step: it is black because the camera was not there, or the one before because nothing was drawn."""

STATE = "observation.state"
"""The feature that holds the arm's own numbers where a mapping does not say otherwise."""


@dataclass(frozen=True)
class CameraMapping:
    """One more camera; the lines are those of `FeatureMapping`."""

    image: str
    depth: str | None = None
    intrinsics: str | Intrinsics | None = None
    extrinsics: str | Extrinsics | None = None


@dataclass(frozen=True)
class FeatureMapping:
    """How to read one LeRobot dataset; see the top of this file.

    image: the RGB feature; the only one, or `observation.images.main`, unless given. depth: the depth feature;
    unless given that of the same camera, if there is one: observation.depth.front or observation.images.front_depth
    of observation.images.front. gripper: None leaves the stored number as it is. units: of the actions that come
    out, where neither the dataset nor `action` says them. intrinsics: a feature, a camera, or "none"; None takes
    `observation.intrinsics` where there is one. extrinsics: the same of where it stands, see `Extrinsics`; None
    takes `observation.extrinsics` where there is one. cameras: beside this one, by the names that a model has for
    them; the dataset's other RGB features by the last parts of their names unless given. calibration: a
    `RobotCalibration`'s file, which tells intrinsics and extrinsics of the cameras without lines of their own.
    There a camera has its name here (the first is `image`), or the last part of its feature's. gripper_pose: needed
    for cameras that the gripper carries. state: the features of the arm's own numbers, or "none"; None takes
    `observation.state` where there is one.
    instruction: of all episodes; the task unless given.
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
    cameras: Mapping[str, str | CameraMapping] | None = field(default=None, repr=False)
    calibration: str | None = field(default=None, repr=False)
    gripper_pose: GripperPose | None = field(default=None, repr=False)
    state: str | StateMapping | None = field(default=None, repr=False)
    instruction: str | None = None
    drop_no_ops: bool = False
    key: str | None = None

    @property
    def first_camera(self) -> CameraMapping:
        """The lines of the first camera; its image is "" where it is to be found."""
        return CameraMapping(self.image or "", self.depth, self.intrinsics, self.extrinsics)

    @property
    def other_cameras(self) -> Mapping[str, CameraMapping]:
        """The lines of the cameras that `cameras` names."""
        return {
            name: CameraMapping(lines) if isinstance(lines, str) else lines
            for name, lines in (self.cameras or {}).items()
        }

    def with_cameras(self, images: Sequence[str]) -> FeatureMapping:
        """The mapping of who looks through these features: the first of them is the first camera where no line says so.

        Each keeps the lines that it has; those that `cameras` does not name are added to it, where it names any.
        """
        named = replace(self, image=self.image or images[0])
        if self.cameras is None:
            return named
        cameras = dict(self.cameras)
        listed = {named.image, *(lines.image for lines in self.other_cameras.values())}
        for image in images:
            if image not in listed:
                taken = {FIRST_CAMERA, *cameras}
                cameras[image if short_name(image) in taken else short_name(image)] = image
        return replace(named, cameras=cameras)

    @property
    def motion(self) -> HandMotion:
        """How the features' numbers become actions."""
        return HandMotion(self.action, self.gripper)

    @classmethod
    def load(cls, path: str | Path) -> FeatureMapping:
        """Read a YAML file. Raises InputError, naming it and the line's key, for what cannot be used."""
        content = load_entries(path, "mapping")
        try:
            mapping = cls.from_dict(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if mapping.calibration is None:
            return mapping
        return replace(mapping, calibration=str(Path(path).expanduser().parent / mapping.calibration))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FeatureMapping:
        """The same from what YAML holds.

        Raises InputError for unknown keys, naming the closest, and wrong values.
        """
        return from_entries(cls, content, "a mapping")


def short_name(feature: str) -> str:
    """The last part of a feature's name."""
    return feature.rsplit(".", 1)[-1]


def mapping_line(camera: str, key: str) -> str:
    """A line of one camera in a mapping, as sentences say it."""
    if camera == FIRST_CAMERA:
        return f"line '{key}: …'"
    return f"line 'cameras: {{{camera}: {{{key}: …}}}}'"

"""What 1 in a LeRobot dataset's actions is: as the dataset says itself, and as a mapping makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from spatialvla.actions.units import STANDARD_GRIPPER, UNKNOWN, ActionUnits, Frame
from spatialvla.common.json_files import read_json, write_json
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.errors import CheckpointError, InputError

_UNITS = "meta/action_units.json"
"""A file of our own; LeRobot does not look at it."""


def write_units(root: Path, units: ActionUnits) -> None:
    """The units of `action`, beside info.json."""
    write_json(root / _UNITS, units.to_json())


def stored_units(root: Path) -> ActionUnits:
    """What a dataset says of its `action`; UNKNOWN where it says nothing.

    Raises CheckpointError, naming the file, for what `write_units` does not write.
    """
    path = root / _UNITS
    if not path.is_file():
        return UNKNOWN
    try:
        return ActionUnits.from_json(read_json(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def mapped_units(mapping: FeatureMapping, stored: ActionUnits, fps: float) -> ActionUnits:
    """The units of the actions that a mapping makes. stored: of the dataset's `action`.

    Raises InputError where the mapping's `units` contradict what is known otherwise.
    """
    made = _made(mapping, stored)
    made = replace(made, control_hz=fps)
    if mapping.gripper is not None:
        made = replace(made, gripper=STANDARD_GRIPPER)
    if mapping.units is None:
        return made
    if differences := made.differences(mapping.units):
        raise InputError(
            f"the dataset and the mapping say otherwise than the mapping's line 'units': {'; '.join(differences)}; "
            "correct one of them."
        )
    return mapping.units.filled(made)


def _made(mapping: FeatureMapping, stored: ActionUnits) -> ActionUnits:
    """Of the motion and, where nothing maps it, of the gripper."""
    action = mapping.action
    turned = action.rotation not in ("euler", "none")
    frame: Frame = "gripper" if action.frame == "tool" else "base"
    meters = None if action.meters is None else 1.0
    if action.of_poses:
        # Poses turn into rotations only where their angles are radians.
        return ActionUnits(meters, 1.0, "euler", frame, stored.gripper)
    if action.feature != ("action",):
        stored = UNKNOWN
    if action.rotation == "none":
        stored = replace(stored, radians=1.0, rotation="euler")
    if action.meters is not None:
        stored = replace(stored, meters=meters)
    if action.radians is not None or action.rotation == "quaternion_xyzw":
        stored = replace(stored, radians=1.0, rotation="euler" if turned else stored.rotation)
    elif turned:
        # A controller's units, taken for radians to turn them into angles, are of unknown size.
        stored = replace(stored, radians=None, rotation="euler")
    return stored

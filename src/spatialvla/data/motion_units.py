"""What 1 in the actions is that a description makes of a dataset's numbers."""

from __future__ import annotations

from dataclasses import replace

from spatialvla.actions.units import STANDARD_GRIPPER, UNKNOWN, ActionUnits, Frame
from spatialvla.data.hand_motions import HandMotion
from spatialvla.data.mapping_lines import ActionMapping
from spatialvla.errors import InputError


def motion_units(
    motion: HandMotion, said: ActionUnits | None, stored: ActionUnits, control_hz: float
) -> ActionUnits:
    """The units of a description's actions. said: by its line `units`. stored: of the dataset's `action`.

    Raises InputError where the line contradicts what is known otherwise.
    """
    made = replace(_made(motion.action, stored), control_hz=control_hz)
    if motion.gripper is not None:
        made = replace(made, gripper=STANDARD_GRIPPER)
    if said is None:
        return made
    if differences := made.differences(said):
        raise InputError(
            f"the dataset and the other lines say otherwise than the line 'units': {'; '.join(differences)}; "
            "correct one of them."
        )
    return said.filled(made)


def _made(action: ActionMapping, stored: ActionUnits) -> ActionUnits:
    """Of the motion and, where nothing maps it, of the gripper."""
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

"""The units of published datasets' actions, for checkpoints that do not state them themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from spatialvla.actions.units import BRIDGE, LIBERO, STANDARD_GRIPPER, UNKNOWN, ActionUnits
from spatialvla.common.dataset_keys import unversioned

# Displacements of the end effector in meters and of roll, pitch and yaw in radians, both in the base's frame: RT-1's
# features.json (TFDS catalog, fractal20220817_data and kuka), and SimplerEnv's google_robot.
_RT1 = ActionUnits(1.0, 1.0, "euler", "base", STANDARD_GRIPPER)
# cartesian_velocity is a share of the most that its controller moves in one step: max_lin_delta, max_rot_delta and
# control_hz in droid/robot_ik/robot_ik_solver.py of github.com/droid-dataset/droid.
_DROID = ActionUnits(0.075, 0.15, "euler", "base", STANDARD_GRIPPER, 15.0)

_SUITES = ("spatial", "object", "goal", "10", "90")
PUBLISHED_UNITS: Mapping[str, ActionUnits] = {
    "fractal20220817_data": replace(_RT1, control_hz=3.0),
    "kuka": replace(_RT1, control_hz=10.0),
    "bridge_orig": BRIDGE,
    "bridge_dataset": BRIDGE,
    "droid": _DROID,
    "r2d2_faceblur": _DROID,
    **{f"libero_{suite}": LIBERO for suite in _SUITES},
    **{f"libero_{suite}_no_noops": LIBERO for suite in _SUITES},
    "liber_o10": LIBERO,
}
"""By the dataset's name. The other datasets' actions are in units that nobody wrote down, or absolute poses."""


def published_units(key: str | None) -> ActionUnits:
    """The units of a published dataset, by its key (name/version) or name; UNKNOWN for all others."""
    return PUBLISHED_UNITS.get(unversioned(key or ""), UNKNOWN)

"""What is likely wrong with a dataset's actions, by their statistics alone: a sentence each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spatialvla.actions.statistics import MIN_SPAN, ActionStatistics
from spatialvla.actions.units import ActionUnits
from spatialvla.data.camera_strips import STILL
from spatialvla.types import ACTION_AXES

_FARTHEST = (0.25, 1.0)  # meters and radians of one step of an arm
_OVERSHOOT = 0.1  # of a gripper's range, by which a measured one may lie outside


def idle_gripper(statistics: ActionStatistics) -> str | None:
    """Of a gripper within [0, 1] that is always open or always closed; None of others."""
    lowest, highest = statistics.min[6], statistics.max[6]
    if lowest == highest:
        return f"the gripper never changes; it is {lowest:g} all the time"
    if lowest < 0.5 <= highest:  # open from 0.5 on, as the grid takes it
        return None
    return (
        f"the gripper goes from {lowest:g} to {highest:g}, which is always {'open' if lowest >= 0.5 else 'closed'} "
        "(0 is closed, 1 is open); scale it with a mapping's 'gripper: {min, max}'"
    )


def wide_gripper(statistics: ActionStatistics) -> str | None:
    """Of a gripper far outside of [0, 1], as one in percent or millimeters; None of others."""
    lowest, highest = statistics.min[6], statistics.max[6]
    if lowest >= -_OVERSHOOT and highest <= 1 + _OVERSHOOT:
        return None
    return (
        f"the gripper goes from {lowest:g} to {highest:g}, outside of 0 (closed) to 1 (open), and all from 0.5 on is "
        "learned as open; scale it with a mapping's 'gripper: {min, max}'"
    )


def far_motions(statistics: ActionStatistics, units: ActionUnits) -> Iterator[str]:
    """Steps that are too far in meters or radians, so that the numbers are likely something else."""
    reached = np.maximum(np.abs(statistics.q01), np.abs(statistics.q99))[:6].reshape(2, 3).max(axis=1)
    scale = (units.meters or 1.0, units.radians or 1.0)
    parts = zip(
        ("translation", "rotation"),
        ("meters", "radians"),
        ("millimeters", "degrees"),
        reached,
        scale,
        _FARTHEST,
        strict=True,
    )
    for part, unit, other, number, one, farthest in parts:
        if number * one > farthest:
            yield (
                f"the {part} reaches {number:.3g} in a step (q01 to q99), and no arm moves {number * one:.3g} {unit} "
                f"in one; the actions may be {other}, a controller's units or absolute poses"
            )


def lost_motions(statistics: ActionStatistics) -> Iterator[str]:
    """Dimensions that normalization by q01 and q99 takes for still, or whose noise it makes the full range."""
    for axis, name in enumerate(ACTION_AXES[:6]):
        lowest, highest = statistics.min[axis], statistics.max[axis]
        span = statistics.q99[axis] - statistics.q01[axis]
        if span < STILL < highest - lowest:
            yield (
                f"{name} moves in fewer than 1 % of the steps, from {lowest:g} to {highest:g}, but q01 is "
                f"{statistics.q01[axis]:g} and q99 {statistics.q99[axis]:g}; what lies outside of them is not learned"
            )
        elif MIN_SPAN <= span < STILL:
            yield (
                f"{name} hardly moves: from {statistics.q01[axis]:g} (q01) to {statistics.q99[axis]:g} "
                "(q99), which normalization makes the full range; it may be rounding noise, to be set to 0"
            )

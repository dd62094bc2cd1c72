"""Whether a checkpoint's actions can be what a benchmark takes, as far as its statistics tell."""

from __future__ import annotations

from spatialvla.actions.statistics import ActionStatistics
from spatialvla.actions.units import LIBERO, ActionUnits
from spatialvla.errors import InputError

_GRIPPER = 6
_SLACK = 0.05


def check_gripper(statistics: ActionStatistics) -> None:
    """Every benchmark here takes a gripper from 0 (closed) to 1 (open).

    Raises InputError for statistics of another range, such as LIBERO's own -1 (open) to 1 (closed): a policy
    with such statistics would close where it should open.
    """
    low, high = float(statistics.min[_GRIPPER]), float(statistics.max[_GRIPPER])
    if low < -_SLACK or high > 1 + _SLACK:
        raise InputError(
            f"The checkpoint was trained on grippers from {low:g} to {high:g}, but benchmarks take 0 "
            "(closed) to 1 (open); choose other statistics with --dataset, or convert and train again."
        )


def check_units(suite: str, units: ActionUnits) -> None:
    """Raises InputError for LIBERO's suites and a policy that is known to count in other units than these.

    SimplerEnv's suites scale by the policy's units; of unknown units nothing can be said.
    """
    theirs = (LIBERO.meters, LIBERO.radians)
    if suite.startswith("libero") and units.known and (units.meters, units.radians) != theirs:
        raise InputError(
            f"{suite} takes actions in units of LIBERO's controller ({LIBERO.describe()}), but the policy's are "
            f"others ({units.describe()}); choose another --suite, or a checkpoint and --dataset that fit."
        )

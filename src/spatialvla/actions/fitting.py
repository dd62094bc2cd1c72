"""Whether a policy's actions are what a robot or a benchmark takes; what nobody says counts as unfit."""

from __future__ import annotations

import numpy as np

from spatialvla.actions.statistics import ActionStatistics
from spatialvla.actions.units import STANDARD_GRIPPER, ActionUnits
from spatialvla.errors import InputError

_GRIPPER = 6
_SLACK = 0.05


def check_fit(
    units: ActionUnits,
    taken: ActionUnits,
    taker: str,
    *,
    statistics: ActionStatistics | None = None,
    unknown_units: bool = False,
    advice: str = "choose a checkpoint and --dataset that fit",
) -> None:
    """Raises InputError where a policy's actions are others than a robot takes, or nobody says what they are.

    units: of the policy's actions. taken: what `taker` takes; None there is anything. statistics: of the
    actions, which tell the gripper's range where the units do not.
    unknown_units: whether it is enough that nothing contradicts. advice: what to do, for the sentence.
    """
    if differences := units.differences(taken):
        raise InputError(
            f"{taker} takes other actions than the policy's: {'; '.join(differences)}; {advice}."
        )
    if taken.gripper is not None and units.gripper is None and statistics is not None:
        check_gripper(statistics)
    if units.unknown and not unknown_units:
        raise InputError(
            f"Nobody says the {', '.join(units.unknown)} of the policy's actions, so {taker} may move otherwise "
            "than meant; state them by the line 'units' of the dataset's mapping or spec before training, under "
            "action_units in the checkpoint's processor_config.json, or in a server's --limits; or say "
            "--unknown-units."
        )


def check_gripper(statistics: ActionStatistics) -> None:
    """Robots, benchmarks and clients' mappings here take a gripper from 0 (closed) to 1 (open).

    Raises InputError for statistics of another range, such as LIBERO's own -1 (open) to 1 (closed): a policy
    with such statistics would close where it should open.
    """
    # Statistics without a minimum and a maximum, NaN here, have quantiles all the same.
    low = float(np.fmin(statistics.min, statistics.q01)[_GRIPPER])
    high = float(np.fmax(statistics.max, statistics.q99)[_GRIPPER])
    closed, opened = STANDARD_GRIPPER
    if low < closed - _SLACK or high > opened + _SLACK:
        raise InputError(
            f"The checkpoint was trained on grippers from {low:g} to {high:g}, but robots here take {closed:g} "
            f"(closed) to {opened:g} (open); choose other statistics with --dataset, or convert and train again."
        )

from dataclasses import replace

import numpy as np
import pytest

from spatialvla.actions.published_units import published_units
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.actions.units import LIBERO
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.gripper_range import check_gripper, check_units
from spatialvla.processor import Processor

ACTIONS = np.random.default_rng(0).uniform(-1, 1, (50, 7))


def statistics(low: float, high: float) -> ActionStatistics:
    measured = ActionStatistics.from_actions(ACTIONS)
    numbers = {name: np.array(getattr(measured, name)) for name in ("q01", "q99", "min", "max")}
    numbers["q01"][6] = numbers["min"][6] = low
    numbers["q99"][6] = numbers["max"][6] = high
    return replace(measured, **numbers)


def test_a_gripper_from_0_to_1_is_taken():
    check_gripper(statistics(0, 1))
    check_gripper(statistics(0.1, 0.9))
    check_gripper(Processor.from_pretrained("nano").dataset_statistics("libero_spatial"))


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 255), (-0.04, 1.2)])
def test_another_range_is_refused(low, high):
    with pytest.raises(InputError, match=f"grippers from {low:g} to {high:g}, but benchmarks take 0"):
        check_gripper(statistics(low, high))


def test_a_policy_of_another_robot_is_refused_by_libero():
    bridge = published_units("bridge_orig/1.0.0")
    with pytest.raises(InputError, match=r"1 = 0\.05 m, 0\.5 rad.*1 = 1 m, 1 rad"):
        check_units("libero_spatial", bridge)
    check_units("simpler_widowx", bridge)
    check_units("libero_spatial", LIBERO)
    check_units("libero_spatial", published_units("my_robot"))

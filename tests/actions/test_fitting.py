"""Actions that a robot does not take are refused, each difference by name, and so are those that nobody knows."""

from dataclasses import replace

import numpy as np
import pytest

from spatialvla.actions.fitting import check_fit, check_gripper
from spatialvla.actions.published_units import published_units
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.actions.units import LIBERO, UNKNOWN
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
from spatialvla.evaluation.benchmarks.registry import benchmark_for
from spatialvla.processor import Processor

ACTIONS = np.random.default_rng(0).uniform(-1, 1, (50, 7))
BRIDGE = published_units("bridge_orig/1.0.0")


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
    with pytest.raises(InputError, match=f"grippers from {low:g} to {high:g}, but robots here take 0"):
        check_gripper(statistics(low, high))
    unknown = np.full(7, np.nan)
    with pytest.raises(InputError, match=f"grippers from {low:g} to {high:g}"):
        check_gripper(replace(statistics(low, high), min=unknown, max=unknown))
    unsaid = replace(LIBERO, gripper=None)
    with pytest.raises(InputError, match=f"grippers from {low:g}"):
        check_fit(unsaid, LIBERO, "the arm", statistics=statistics(low, high))
    check_fit(unsaid, LIBERO, "the arm", statistics=statistics(0, 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"meters": 1.0}, "meters a unit 1, not 0.05"),
        ({"radians": 1.0}, "radians a unit 1, not 0.5"),
        ({"rotation": "euler"}, "rotation euler, not rotation_vector"),
        ({"frame": "gripper"}, "frame gripper, not base"),
        ({"gripper": (1.0, 0.0)}, "gripper closed and open 1 and 0, not 0 and 1"),
        ({"gripper": (1.0, -1.0)}, "gripper closed and open 1 and -1, not 0 and 1"),
        ({"control_hz": 5.0}, "control rate in Hz 5, not 20"),
    ],
)
@pytest.mark.parametrize("unknown_units", [True, False])
def test_each_thing_that_differs_is_refused_by_name(change, said, unknown_units):
    with pytest.raises(InputError) as refused:
        check_fit(
            replace(LIBERO, **change), LiberoBenchmark().takes, "libero_10", unknown_units=unknown_units
        )
    assert (
        str(refused.value) == f"libero_10 takes other actions than the policy's: {said}; choose a "
        "checkpoint and --dataset that fit."
    )


@pytest.mark.parametrize("missing", ["meters", "radians", "rotation", "frame"])
def test_what_nobody_says_is_refused_unless_that_is_asked_for(missing):
    units = replace(LIBERO, **{missing: None})
    with pytest.raises(InputError, match=f"Nobody says the {missing} of .* or say --unknown-units"):
        check_fit(units, LIBERO, "the arm")
    check_fit(units, LIBERO, "the arm", unknown_units=True)
    with pytest.raises(InputError, match="meters, radians, rotation, frame"):
        check_fit(UNKNOWN, LIBERO, "the arm")


def test_simplerenv_scales_and_turns_but_has_its_own_frame_and_rate():
    check_fit(BRIDGE, benchmark_for("simpler_widowx", 224, BRIDGE).takes, "simpler_widowx")
    with pytest.raises(InputError, match="policy's: control rate in Hz 20, not 5;"):
        check_fit(LIBERO, benchmark_for("simpler_widowx", 56, LIBERO).takes, "simpler_widowx")
    slow = replace(LIBERO, control_hz=5.0)
    check_fit(slow, benchmark_for("simpler_widowx", 56, slow).takes, "simpler_widowx")
    tool = replace(BRIDGE, frame="gripper")
    with pytest.raises(InputError, match="policy's: frame gripper, not base;"):
        check_fit(tool, benchmark_for("simpler_widowx", 224, tool).takes, "simpler_widowx")

"""What we say of vla-eval's benchmarks, against the harness's own classes."""

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from vla_eval.benchmarks.libero.benchmark import LIBERO_DUMMY_ACTION, MAX_STEP_MAPPING, LIBEROBenchmark
from vla_eval.registry import resolve_import_string

from spatialvla.actions.published_units import published_units
from spatialvla.actions.units import UNKNOWN
from spatialvla.data.oxe.specs import SPECS
from spatialvla.errors import InputError
from spatialvla.serving.vla_eval.conventions import (
    BENCHMARKS,
    LIBERO,
    SIMPLER_GOOGLE_ROBOT,
    SIMPLER_WIDOWX,
    HarnessBenchmark,
    PolicyNeeds,
    benchmark_called,
)
from spatialvla.simulation.libero.env import SETTLING_ACTION, SETTLING_STEPS
from spatialvla.simulation.libero.tasks import TIME_LIMITS

OWN = PolicyNeeds("image")
each = pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)


def message(benchmark: HarnessBenchmark, **changes: Any) -> dict[str, Any]:
    """An observation in the benchmark's format."""
    image = np.zeros((benchmark.camera.height, benchmark.camera.width, 3), np.uint8)
    return {"images": {benchmark.image: image}, "task_description": "pick it up", **changes}


@each
def test_the_benchmarks_constructor_takes_our_parameters(benchmark: HarnessBenchmark) -> None:
    accepted = inspect.signature(resolve_import_string(benchmark.harness_class).__init__).parameters
    assert set(benchmark.parameters) <= set(accepted)


@each
def test_its_observation_becomes_ours_with_its_camera(benchmark: HarnessBenchmark) -> None:
    seen = benchmark.observation(message(benchmark), OWN)
    assert seen.instruction == "pick it up"
    assert np.array_equal(seen.intrinsics, benchmark.camera.intrinsics)
    assert benchmark.observation(message(benchmark), replace(OWN, own_cameras=False)).intrinsics is None


@each
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"images": {"wrist": np.zeros((4, 4, 3), np.uint8)}},
            r"sends images\.\w+, but the observation has wrist",
        ),
        ({"images": None}, "the observation has none"),
        ({"task_description": None}, "no task_description"),
    ],
)
def test_what_is_missing_is_named(
    benchmark: HarnessBenchmark, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        benchmark.observation(message(benchmark, **changes), OWN)


@each
def test_a_picture_of_another_size_is_refused_for_its_intrinsics(benchmark: HarnessBenchmark) -> None:
    small = message(benchmark, images={benchmark.image: np.zeros((224, 224, 3), np.uint8)})
    with pytest.raises(InputError, match="intrinsics would not fit"):
        benchmark.observation(small, OWN)


@pytest.mark.parametrize(
    ("benchmark", "dataset", "task"),
    [
        (LIBERO, "libero_spatial", {"suite": "libero_10", "name": "turn on the stove"}),
        (
            SIMPLER_WIDOWX,
            "bridge_orig/1.0.0",
            {"name": "widowx_stack_cube", "task_name": "widowx_stack_cube"},
        ),
        (SIMPLER_GOOGLE_ROBOT, "fractal20220817_data/0.1.0", {"task_name": "google_robot_pick_coke_can"}),
    ],
)
def test_policies_and_tasks_belong_to_one_benchmark(
    benchmark: HarnessBenchmark, dataset: str, task: dict[str, str]
) -> None:
    for other in BENCHMARKS.values():
        if other is benchmark:
            other.check_policy(published_units(dataset))
            other.check_task(task)
        else:
            with pytest.raises(InputError, match="takes other actions than the policy's: "):
                other.check_policy(published_units(dataset))
            with pytest.raises(InputError, match=f"This server plays {other.name}"):
                other.check_task(task)


def test_what_a_client_says_makes_no_long_sentence() -> None:
    with pytest.raises(InputError) as refused:
        LIBERO.check_task({"suite": "x" * 10**6})
    assert len(str(refused.value)) < 300
    for images in ({"k" * 10**6: 1}, {str(number): 1 for number in range(10**4)}):
        with pytest.raises(InputError, match=r"sends images\.agentview") as refused:
            LIBERO.observation({"images": images}, OWN)
        assert len(str(refused.value)) < 300


def test_a_policy_is_known_by_its_units_and_not_by_its_datasets_name() -> None:
    LIBERO.check_policy(published_units("libero_10_no_noops/1.0.0"))
    with pytest.raises(InputError, match="Nobody says the meters"):
        LIBERO.check_policy(published_units("somebody/not_libero"))
    LIBERO.check_policy(UNKNOWN, unknown_units=True)
    with pytest.raises(InputError, match="control rate in Hz 10, not 20"):
        LIBERO.check_policy(published_units("kuka/0.1.0"), unknown_units=True)


def test_an_unknown_benchmark_is_told_the_known_ones() -> None:
    with pytest.raises(InputError, match="choose from libero, simpler_widowx, simpler_google_robot"):
        benchmark_called("calvin")


def test_the_harness_plays_libero_by_the_rules_of_our_own_evaluation() -> None:
    assert {suite: TIME_LIMITS[suite] for suite in MAX_STEP_MAPPING} == MAX_STEP_MAPPING
    assert LIBERO.parameters["num_steps_wait"] == SETTLING_STEPS
    assert np.array_equal(SETTLING_ACTION[:6], LIBERO_DUMMY_ACTION[:6])
    assert 1 - 2 * SETTLING_ACTION[6] == LIBERO_DUMMY_ACTION[6]
    assert not LIBEROBenchmark(**LIBERO.parameters).absolute_action


def test_the_widowx_camera_is_the_one_of_bridge() -> None:
    assert SIMPLER_WIDOWX.camera is SPECS["bridge_orig"].camera


@pytest.mark.sim
def test_liberos_camera_is_the_simulators() -> None:
    from spatialvla.simulation.libero.env import LiberoEnv
    from spatialvla.simulation.libero.tasks import tasks

    env = LiberoEnv(tasks("libero_spatial")[0], LIBERO.camera.height, LIBERO.image)
    assert np.allclose(env.intrinsics, LIBERO.camera.intrinsics)
    env.simulator.close()

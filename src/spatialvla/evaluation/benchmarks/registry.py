"""The benchmarks by name, and which of them plays a suite."""

from __future__ import annotations

from collections.abc import Callable

from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks import simpler
from spatialvla.evaluation.benchmarks.chosen_tasks import chosen_tasks
from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
from spatialvla.evaluation.benchmarks.libero_plus import LiberoPlusBenchmark
from spatialvla.evaluation.benchmarks.protocol import FIRST_CAMERA_ALONE, Benchmark, Inputs
from spatialvla.evaluation.benchmarks.simpler import SimplerBenchmark
from spatialvla.evaluation.benchmarks.spatial_exam import SpatialExamBenchmark
from spatialvla.execution import WHOLE_CHUNKS, Execution
from spatialvla.simulation.libero import plus
from spatialvla.simulation.libero.exam import questions
from spatialvla.simulation.libero.tasks import TIME_LIMITS

BENCHMARKS: dict[str, Callable[[int, ActionUnits, Inputs], Benchmark]] = {
    "libero": LiberoBenchmark.for_policy,
    "libero_plus": LiberoPlusBenchmark.for_policy,
    "simpler": SimplerBenchmark.for_policy,
    questions.SUITE: SpatialExamBenchmark.for_policy,
}
"""Name -> how the benchmark is made for a policy: from its image size in pixels, its actions' units, its inputs.

The names of a benchmark's suites begin with its own. A new benchmark is one line here, one adapter beside
this file and one test."""


_EXECUTIONS = {"simpler": Execution("temporal")}


def execution_for(suite: str) -> Execution:
    """How the suite's published evaluation executes chunks; whole ones where none is known.

    Of SimplerEnv an ensemble, weighted by age (`run_spatialvla.sh`: temperature -0.8).
    """
    return _EXECUTIONS.get(_name(suite), WHOLE_CHUNKS)


def episodes_for(suite: str) -> int:
    """How many episodes of each task are played unless told otherwise: LIBERO-plus has one, of many tasks."""
    return 1 if _name(suite) == "libero_plus" else 10


def benchmark_for(
    suite: str, image_size: int, units: ActionUnits = UNKNOWN, inputs: Inputs = FIRST_CAMERA_ALONE
) -> Benchmark:
    """The benchmark that has this suite, made for a policy.

    image_size: side of the policy's image, pixels. units: of the policy's actions. inputs: what it takes beside its
    first camera.
    Raises InputError where no benchmark's name begins the suite's.
    """
    name = _name(suite)
    if name not in BENCHMARKS:
        known = [*TIME_LIMITS, *simpler.SUITES, *plus.SUITES, questions.SUITE]
        raise InputError(f"No benchmark has a suite {suite!r}; {did_you_mean(suite, known)}")
    return BENCHMARKS[name](image_size, units, inputs)


def check_suite(suite: str, episodes_per_task: int = 1) -> None:
    """Raises InputError unless an installed benchmark plays so many episodes of this suite's tasks.

    For whoever would find out late, when something that takes long is over.
    """
    chosen_tasks(benchmark_for(suite, 224), suite, None, episodes_per_task)


def _name(suite: str) -> str:
    """The longest of the benchmarks' names that the suite's begins with; empty where none does."""
    fitting = [name for name in BENCHMARKS if suite == name or suite.startswith(f"{name}_")]
    return max(fitting, key=len, default="")

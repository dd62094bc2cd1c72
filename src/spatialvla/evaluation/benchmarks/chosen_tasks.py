"""Which tasks of a suite are played, once it is clear that as many episodes of them can be."""

from __future__ import annotations

from collections.abc import Sequence

from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import Benchmark


def chosen_tasks(
    benchmark: Benchmark, suite: str, tasks: Sequence[int] | None, episodes_per_task: int
) -> dict[int, str]:
    """The numbers and instructions of the tasks to play, all of the suite's if `tasks` is None.

    Raises InputError where there is no such task, or nothing to play, or a task has fewer start states.
    """
    instructions = benchmark.instructions(suite)
    chosen = range(len(instructions)) if tasks is None else sorted(set(tasks))
    for task in chosen:
        if not 0 <= task < len(instructions):
            raise InputError(f"{suite} has tasks 0 to {len(instructions) - 1}, there is no task {task}.")
    for name, number in {"tasks": len(chosen), "episodes_per_task": episodes_per_task}.items():
        if number < 1:
            raise InputError(f"An evaluation needs at least 1 of {name}, got {number}.")
    for task in chosen:
        most = benchmark.most_episodes(suite, task)
        if most is not None and episodes_per_task > most:
            raise InputError(
                f"Task {task} of {suite} has {most} start state{'s' * (most != 1)}; play at most that many episodes a "
                f"task, not {episodes_per_task}."
            )
    return {task: instructions[task] for task in chosen}

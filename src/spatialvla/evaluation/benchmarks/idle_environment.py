"""The environment that a task of LIBERO's leaves to the next one of the same scene, as it was built."""

from __future__ import annotations

from spatialvla.evaluation.benchmarks.libero import stock_environment
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.tasks import Task

_idle: list[LiberoEnv] = []
"""At most one environment of this process, which no task plays in: building one takes longer than an episode."""


def taken(task: Task, image_size: int) -> LiberoEnv:
    """The idle environment, if it is of this task's scene and size, or a new one; any other is closed."""
    env = _idle.pop() if _idle else None
    if env is not None and (env.task.bddl, env.image_size) == (task.bddl, image_size):
        return env
    if env is not None:
        env.close()
    return stock_environment(task, image_size)


def left(env: LiberoEnv) -> None:
    """Keeps an environment that is again as it was built."""
    close_idle()
    _idle.append(env)


def close_idle() -> None:
    """Closes the idle environment, if there is one."""
    while _idle:
        _idle.pop().close()

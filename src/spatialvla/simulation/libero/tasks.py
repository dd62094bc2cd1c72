"""The tasks of the installed LIBERO suites: names, instructions, scene files, stored start states."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO
from unittest import mock

import numpy as np

from spatialvla.common.extras import needs_extra
from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError

_ROBOSUITE_LOG = "/tmp/robosuite.log"

# In these perturbations the file name keeps the original wording and only the scene file is reworded.
_REWORDED = ("_lan", "_task")


# Steps after settling, as the LIBERO evaluations since OpenVLA count them: the longest human demonstration of
# the suite, rounded up. A suite derived from another one (libero_spatial_with_mug) has that one's limit.
TIME_LIMITS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_90": 400,
    "libero_10": 520,
}
_OTHER_TIME_LIMIT = 520


@dataclass(frozen=True)
class Task:
    """One LIBERO task.

    suite, name: LIBERO's own identifiers, e.g. `libero_spatial` and the scene file's stem.
    language: the instruction a policy is given.
    bddl: the scene and goal description.
    start_states_file: the benchmark's stored start states.
    """

    suite: str
    name: str
    language: str
    bddl: Path
    start_states_file: Path

    def start_states(self) -> np.ndarray:
        """The benchmark's stored start states, (N, 1 + nq + nv) float64: time, positions, velocities."""
        try:
            with np.load(self.start_states_file, allow_pickle=False) as archive:
                return np.asarray(archive["states"], dtype=np.float64)
        except FileNotFoundError:
            raise InputError(
                f"The installed LIBERO has no start states for {self.suite}/{self.name}; "
                "choose another suite."
            ) from None


def suites() -> list[str]:
    """The installed suites that can be evaluated: every scene file and start state is there."""
    return [name for name, members in _task_maps().items() if _is_complete(members.values())]


def tasks(suite: str) -> list[Task]:
    """The tasks of a suite in the benchmark's order.

    Raises InputError if the suite is unknown or its files are not installed.
    """
    maps = _task_maps()
    if suite not in maps or not _is_complete(maps[suite].values()):
        raise InputError(f"The installed LIBERO has no suite {suite!r}; {did_you_mean(suite, suites())}")
    return [_task(suite, entry) for entry in maps[suite].values()]


def time_limit(suite: str) -> int:
    """How many steps an episode of this suite may take after settling."""
    bases = [base for base in TIME_LIMITS if suite == base or suite.startswith(f"{base}_")]
    return TIME_LIMITS[bases[0]] if bases else _OTHER_TIME_LIMIT


def _task(suite: str, entry: Any) -> Task:
    bddl, states = _files(entry)
    language = entry.language
    if suite.endswith(_REWORDED):
        found = re.search(r"\(:language\s+([^)]*)\)", bddl.read_text(encoding="utf-8"))
        language = found[1].strip() if found else language
    return Task(suite, entry.name, language, bddl, states)


def _is_complete(entries: Iterable[Any]) -> bool:
    files = [path for entry in entries for path in _files(entry)]
    return bool(files) and all(path.is_file() for path in files)


def _files(entry: Any) -> tuple[Path, Path]:
    return (
        Path(_root("bddl_files"), entry.problem_folder, entry.bddl_file),
        Path(_root("init_states"), entry.problem_folder, entry.init_states_file + ".npz"),
    )


@cache
def _root(kind: str) -> str:
    """LIBERO's folder for a kind of files; LIBERO itself reads its configuration anew each time it is asked."""
    return str(libero().get_libero_path(kind))


def _task_maps() -> dict[str, dict[str, Any]]:
    """Suite -> name of the task -> LIBERO's own entry."""
    libero()
    from libero.libero import benchmark

    maps: dict[str, dict[str, Any]] = benchmark.task_maps
    return maps


def libero() -> ModuleType:
    """LIBERO's package, set up to render without a display.

    Raises InputError if it is not installed.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    with needs_extra("libero", "Playing LIBERO"):
        if os.path.exists(_ROBOSUITE_LOG) and not os.access(_ROBOSUITE_LOG, os.W_OK):
            with _logging_nowhere():  # it is another user's
                import_module("robosuite")
        return import_module("libero.libero")


@contextmanager
def _logging_nowhere() -> Iterator[None]:
    """Log files that are opened in this block are not written: robosuite opens its own when it is imported."""

    def nowhere(handler: logging.FileHandler) -> TextIO:
        return open(os.devnull, "w", encoding="utf-8")

    with mock.patch.object(logging.FileHandler, "_open", nowhere):
        yield

"""LIBERO-plus: LIBERO's tasks with one thing changed, by suite; what needs no assets beyond LIBERO's own.

Tasks and wording are those of LIBERO-plus (Fei et al. 2025, arXiv 2510.13626). Suites are named after the axis
that is changed and the suite it is changed in: `libero_plus_camera_spatial`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError
from spatialvla.simulation.libero.camera_move import UNMOVED, CameraMove
from spatialvla.simulation.libero.picture_noise import noise_name
from spatialvla.simulation.libero.tasks import Task, tasks

AXES = ("camera", "robot", "language", "noise")
"""What is changed: the camera's pose, how the arm starts, the instruction's words, or the picture's quality."""

BASES = {name: f"libero_{name}" for name in ("spatial", "object", "goal", "10")}
"""The end of a suite's name -> the suite of LIBERO whose tasks it changes."""

SUITES = tuple(f"libero_plus_{axis}_{name}" for axis in AXES for name in BASES)

_USUAL_JOINTS = np.array([0.0, -1.61037389e-01, 0.0, -2.44459747, 0.0, 2.22675220, np.pi / 4])
"""Radians: how LIBERO's Panda starts."""


@dataclass(frozen=True)
class Variation:
    """A task of LIBERO-plus: one of LIBERO's with one thing changed.

    task: LIBERO's own, with the instruction that is given. camera: how the camera is moved.
    arm_start: number of the arm's initial joints, see `arm_joints`; 0 for the usual ones.
    noise: number of the pictures' noise, see `picture_noise`; 0 for none.
    """

    task: Task
    camera: CameraMove = UNMOVED
    arm_start: int = 0
    noise: int = 0

    @property
    def label(self) -> str:
        """The instruction, and in brackets what is changed beside it."""
        changes = [
            str(self.camera) if self.camera != UNMOVED else "",
            f"arm start {self.arm_start}" if self.arm_start else "",
            noise_name(self.noise) if self.noise else "",
        ]
        changed = ", ".join(filter(None, changes))
        return f"{self.task.language} [{changed}]" if changed else self.task.language


def base_suite(suite: str) -> str:
    """The suite of LIBERO whose tasks are changed; InputError for no suite of LIBERO-plus's."""
    return BASES[_parts(suite)[1]]


def variations(suite: str) -> list[Variation]:
    """The tasks of a suite, in LIBERO-plus's order.

    Raises InputError for an unknown suite, and where LIBERO is not installed.
    """
    axis, name = _parts(suite)
    base = {task.name: task for task in tasks(BASES[name])}
    changes = _changes()[BASES[name]]
    return [_variation(base[task], axis, change) for task, axes in changes.items() for change in axes[axis]]


def arm_joints(number: int) -> np.ndarray:
    """(7,) radians: the arm's initial joints of this number, 1 to 500; 0 gives the usual ones.

    The usual joints plus a random direction of 7 numbers, as the benchmark draws it: seed 42, of norm 0.1 for
    the first hundred numbers, 0.2 for the next and so on.
    """
    if not 0 <= number <= 500:
        raise InputError(f"LIBERO-plus numbers the arm's starts 0 to 500, there is no {number}.")
    if number == 0:
        return _USUAL_JOINTS.copy()
    direction = np.random.RandomState(42).randn(number, 7)[-1]
    norm = ((number - 1) // 100 + 1) / 10
    joints: np.ndarray = _USUAL_JOINTS + norm * direction / np.linalg.norm(direction)
    return joints


def _parts(suite: str) -> tuple[str, str]:
    if suite not in SUITES:
        raise InputError(f"LIBERO-plus has no suite {suite!r} here; {did_you_mean(suite, SUITES)}")
    axis, name = suite.removeprefix("libero_plus_").rsplit("_", 1)
    return axis, name


def _variation(task: Task, axis: str, change: Any) -> Variation:
    match axis:
        case "camera":
            return Variation(task, camera=CameraMove.parse(change))
        case "robot":
            return Variation(task, arm_start=change)
        case "noise":
            return Variation(task, noise=change)
        case _:
            return Variation(replace(task, language=change))


@cache
def _changes() -> dict[str, dict[str, dict[str, list[Any]]]]:
    """LIBERO's suite -> name of its task -> axis -> what it is changed to, one after the other."""
    text = (files("spatialvla") / "assets" / "libero_plus.json").read_text(encoding="utf-8")
    suites: dict[str, dict[str, dict[str, list[Any]]]] = json.loads(text)["suites"]
    return suites

"""How long something takes: the best of several runs, or several ways in turns, in wall and CPU seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Name = TypeVar("Name")
Result = TypeVar("Result")


@dataclass
class Times:
    """Seconds of each run: on the wall, and of the process on all cores together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """Wall seconds of the fastest run."""
        return min(self.wall)

    @property
    def median(self) -> float:
        """Wall seconds of the run in the middle."""
        return statistics.median(self.wall)

    def run(self, work: Callable[[], Result], device: torch.device | None = None) -> Result:
        """Adds one run, and gives what it returns. device: one to wait for, before and after."""
        wait(device)
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        wait(device)
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        return result


def best_of(runs: int, work: Callable[[], Any], device: torch.device | None = None) -> float:
    """Wall seconds of the fastest of several runs."""
    times = Times()
    for _ in range(runs):
        times.run(work, device)
    return times.best


def in_turns(ways: Mapping[Name, Callable[[], Any]], rounds: int) -> dict[Name, Times]:
    """Runs every way once, and then all of them in turns, so that a busy machine disturbs all alike."""
    for work in ways.values():
        work()
    measured = {name: Times() for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            measured[name].run(work)
    return measured


def wait(device: torch.device | None) -> None:
    """Until a CUDA device has done all it was given; other devices are never behind."""
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)

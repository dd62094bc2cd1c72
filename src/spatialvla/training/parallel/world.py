"""One process or many: who this process is, and what all of them agree on."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from spatialvla.common.device import find_device
from spatialvla.errors import CheckpointError, InputError
from spatialvla.training.parallel.main_turn import MainTurns

T = TypeVar("T")

_SETTLING = 0.2
"""Seconds. A process that ends while a thread of gloo lets go of its last message would abort."""

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others where all take part; for what rank 0 does alone, as long as it lives."""


@dataclass(frozen=True)
class World:
    """This process among `size`. Alone, there is no process group and everything below is the identity.

    The methods but `part` are collective: every rank calls them, in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    turns: MainTurns | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_environment(cls, device: str | None = None) -> World:
        """What torchrun says in RANK, WORLD_SIZE and LOCAL_RANK; a single process without it.

        device: "cuda" where there is one unless given. Each rank takes the GPU of its local rank.
        Raises InputError where there are fewer GPUs than ranks on this machine, or the variables are no
        numbers.
        """
        try:
            rank, size, local_rank = (
                int(os.environ.get(name, default))
                for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
            )
        except ValueError as error:
            raise InputError(f"RANK, WORLD_SIZE and LOCAL_RANK should be numbers ({error}).") from None
        chosen = find_device(device)
        if size > 1 and chosen.type == "cuda":
            count = torch.cuda.device_count()
            if chosen.index is not None or local_rank >= count:
                raise InputError(
                    f"Each of {size} processes takes a GPU of its own, and {count} are here; "
                    "start at most so many a machine, and give no number with the device."
                )
            chosen = torch.device("cuda", local_rank)
        return cls(rank, size, local_rank, chosen)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that logs and writes what is written once."""
        return self.rank == 0

    @property
    def memory_gb(self) -> float:
        """The most this rank's device, or its process on the CPU, has held so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    def part(self, indices: np.ndarray) -> np.ndarray:
        """This rank's equal, contiguous share of a global batch.

        Raises InputError where it cannot be equal.
        """
        if len(indices) % self.size:
            raise InputError(
                f"A batch of {len(indices)} cannot be split over {self.size} processes; choose a multiple."
            )
        share = len(indices) // self.size
        return indices[self.rank * share : (self.rank + 1) * share]

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, in float64."""
        if self.size == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank: they stop, or skip, together or not at all."""
        return self.sum([float(flag)])[0] > 0

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def from_main(self, value: T) -> T:
        """Rank 0's value, on every rank: the clock, for one, of which each has its own."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def on_main(self, action: Callable[[], T]) -> T:
        """Rank 0 acts while the others wait, however long it takes; all get its result.

        Raises the CheckpointError, InputError or OSError of rank 0 on all ranks, so that none waits forever.
        """
        result: T | None = None
        failure: Exception | None = None
        with nullcontext() if self.turns is None else self.turns.turn():
            if self.is_main:
                try:
                    result = action()
                except (CheckpointError, InputError, OSError) as error:
                    failure = error
        result, failure = self.from_main((result, failure))
        if failure is not None:
            raise failure
        return result  # type: ignore[return-value]

    def on_main_first(self, action: Callable[[], T]) -> T:
        """Rank 0 acts while the others wait, then they do: for what it leaves in files for them to find."""
        results: list[T] = []
        self.on_main(lambda: results.append(action()))
        return results[0] if self.is_main else action()

    def barrier(self) -> None:
        """Returns once every rank is here."""
        self.sum([0.0])


ALONE = World()
"""One process on the CPU."""


@contextmanager
def join_world(device: str | None = None) -> Iterator[World]:
    """This process as part of its world, with a process group inside this block where there are several.

    gloo carries what lies on the CPU, NCCL what lies on GPUs.
    """
    world = World.from_environment(device)
    if world.size == 1:
        yield world
        return
    backend = "gloo"
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
        backend = "cpu:gloo,cuda:nccl"
    store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=PATIENCE))
    store.set_timeout(PATIENCE)
    group = PrefixStore("group", store)
    dist.init_process_group(backend, store=group, rank=world.rank, world_size=world.size, timeout=PATIENCE)
    world = replace(world, turns=MainTurns(store, world.is_main, PATIENCE))
    try:
        yield world
        world.barrier()  # so that none hangs up on one that still listens
    finally:
        dist.destroy_process_group()
        time.sleep(_SETTLING)

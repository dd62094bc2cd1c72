"""Being asked to stop: signals noted, and the exit code that asks a scheduler to run the job again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 75
"""Exit code of a run that was asked to stop and saved: EX_TEMPFAIL of sysexits.h, "try again later".

Unlike 143, which a shell gives to whatever SIGTERM killed, it says that there is a checkpoint of this very
step, or that none was done since the last. Slurm can requeue on it (RequeueExit=75 in slurm.conf), HTCondor by
on_exit_remove = ExitCode =!= 75, LSF by bsub -Q 75. Under torchrun the workers exit with it and torchrun itself
with 1; see examples/slurm/pretrain.sbatch.
"""


class StopRequested(KeyboardInterrupt):
    """A signal asked the process to stop while there was nothing to save."""


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that fills with the signals asking the process to stop, while inside this block.

    Among several processes each gets its own: agree with `World.any` before acting on it.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    with _handled_by(note):
        yield received


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """The same signals raise StopRequested while inside this block: what runs there is done again anyway."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StopRequested

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)

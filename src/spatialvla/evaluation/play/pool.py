"""The worker processes of an evaluation: started, talked to, and none left running."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from spatialvla.errors import InputError
from spatialvla.evaluation.play.jobs import Job
from spatialvla.evaluation.play.messages import Answer, Failure, Message, Setup
from spatialvla.evaluation.play.worker import run_worker


class EvaluationError(RuntimeError):
    """A worker died or its environment broke; the message names the task."""


@dataclass
class Worker:
    """One process and what it is doing. instructions: of every task, by number, to say it in words."""

    number: int
    process: BaseProcess
    connection: Connection
    instructions: dict[int, str]
    job: Job | None = None

    def receive(self) -> Message:
        """The next message. Raises InputError or EvaluationError for what went wrong over there."""
        try:
            message: Message | Failure = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._death() from None
        if isinstance(message, Failure):
            if message.bad_input:
                raise InputError(message.message)
            raise EvaluationError(f"Worker {self.number + 1} failed in {self._where()}:\n{message.message}")
        return message

    def send(self, answer: Answer) -> None:
        """Answers the worker. Raises EvaluationError if it is gone."""
        try:
            self.connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            raise self._death() from None

    def doing(self, what: str = "") -> str:
        """What the worker is at, in a few words."""
        return f"{what} {self.instructions[self.job.task]}".strip() if self.job else "done"

    def _death(self) -> EvaluationError:
        self.process.join(5)
        code = self.process.exitcode
        return EvaluationError(f"Worker {self.number + 1} died (exit code {code}) in {self._where()}.")

    def _where(self) -> str:
        if self.job is None:
            return "no task yet"
        return f"task {self.job.task} ({self.instructions[self.job.task]}) of {self.job.suite}"


@contextmanager
def worker_processes(count: int, setup: Setup, instructions: dict[int, str]) -> Iterator[list[Worker]]:
    """Starts the workers; on the way out, however that comes, none is left running."""
    context = multiprocessing.get_context("spawn")
    pool: list[Worker] = []
    try:
        with _one_thread_each():
            for number in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=run_worker, args=(theirs, setup), daemon=True)
                process.start()
                theirs.close()  # else a worker's death would never reach us as the end of its stream
                pool.append(Worker(number, process, ours, instructions))
        yield pool
        for worker in pool:
            worker.process.join(10)
    finally:
        for worker in pool:
            worker.connection.close()
            worker.process.terminate()
        for worker in pool:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one core each: Mesa's renderer and NumPy would take all of them."""
    names = ("LP_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    added = [name for name in names if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]

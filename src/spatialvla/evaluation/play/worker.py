"""The process that plays episodes: it steps and renders an environment and asks for actions."""

from __future__ import annotations

import logging
import signal
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import Benchmark, Conventions, Environment
from spatialvla.evaluation.play.episode_video import video_name, write_video
from spatialvla.evaluation.play.jobs import Job
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.evaluation.results.plan import EpisodeId
from spatialvla.types import Observation

log = logging.getLogger(__name__)

_STILL = 1e-3
"""Of a unit of the actions; what is below moves nothing that a picture shows."""

_SOME_PICTURES = 3


@dataclass(frozen=True)
class Setup:
    """What every worker is told once. videos: folder for the MP4 files, or None for none."""

    benchmark: Benchmark
    conventions: Conventions
    depth: bool
    videos: Path | None


@dataclass(frozen=True)
class Idle:
    """A worker asks for a job; the answer is a Job, or None to end."""


@dataclass(frozen=True)
class Built:
    """The environment stands; the first episode starts."""

    seconds: float


@dataclass(frozen=True)
class Decide:
    """A worker asks for actions; the answer is (k, 7), the steps to execute before it asks again.

    step: steps executed so far in this episode; 0 starts a new one.
    """

    observation: Observation
    start_state: int
    step: int


@dataclass(frozen=True)
class Failure:
    """The worker ends after this. bad_input: the user can mend it, so `message` is one sentence."""

    message: str
    bad_input: bool


Message = Idle | Built | Decide | EpisodeResult
"""What a worker says while all is well."""
Answer = Job | np.ndarray | None
"""What it is told: a job or the end where it is idle, actions where it asks to decide."""


def run_worker(connection: Connection, setup: Setup) -> None:
    """Plays jobs until told to stop, or until the main process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    logging.disable(logging.WARNING)  # robosuite warns of settings nobody asked for, in every process
    try:
        while True:
            connection.send(Idle())
            job = connection.recv()
            if job is None:
                return
            _play_job(connection, setup, job)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except InputError as error:
        connection.send(Failure(str(error), bad_input=True))
    except Exception:
        connection.send(Failure(traceback.format_exc(), bad_input=False))


def _play_job(connection: Connection, setup: Setup, job: Job) -> None:
    began = time.monotonic()
    environment = setup.benchmark.open(job.suite, job.task, setup.conventions)
    try:
        connection.send(Built(time.monotonic() - began))
        for start_state in job.start_states:
            connection.send(_play_episode(connection, setup, environment, job.task, start_state))
    finally:
        environment.close()


def _play_episode(
    connection: Connection, setup: Setup, environment: Environment, task: int, start_state: int
) -> EpisodeResult:
    began = time.monotonic()
    limit, ends_on_success = setup.conventions.limit(task), setup.conventions.ends_on_success

    def over(success: bool) -> bool:
        return environment.ended or (success and ends_on_success)

    environment.start(start_state)
    step, success, frames, moved = 0, False, [], False
    while step < limit and not over(success):
        observation = environment.observe(setup.depth)
        frames.append((step, _shown(observation)))
        connection.send(Decide(observation, start_state, step))
        for action in connection.recv()[: limit - step]:
            success = bool(environment.step(action))
            moved = moved or bool(np.abs(action[:6]).max() > _STILL)
            step += 1
            if over(success):
                break
    if moved and len(frames) > _SOME_PICTURES and all(np.array_equal(frames[0][1], f) for _, f in frames[1:]):
        log.warning(
            "Task %d, start state %d: all %d pictures are the same, bit for bit, though the arm moves; check the "
            "renderer.",
            task,
            start_state,
            len(frames),
        )
    video = None
    if setup.videos is not None:
        frames.append((step, _shown(environment.observe(depth=False))))
        video = video_name(EpisodeId(task, start_state))
        write_video(setup.videos / video, frames, setup.conventions.control_hz)
        video = f"{setup.videos.name}/{video}"
    seconds = round(time.monotonic() - began, 3)
    partial = None if environment.partial is None else bool(environment.partial)
    return EpisodeResult(task, start_state, success, step, seconds, video, partial)


def _shown(observation: Observation) -> np.ndarray:
    """(H, W, 3) what all cameras see, side by side, the first one at the left; sides even, as videos need them."""
    pictures = [
        np.asarray(observation.image),
        *(np.asarray(seen.image) for seen in observation.images.values()),
    ]
    tallest = max(picture.shape[0] for picture in pictures)
    below = [np.pad(picture, ((0, tallest - len(picture)), (0, 0), (0, 0))) for picture in pictures]
    joined = np.concatenate(below, axis=1)
    return np.pad(joined, ((0, tallest % 2), (0, joined.shape[1] % 2), (0, 0)))

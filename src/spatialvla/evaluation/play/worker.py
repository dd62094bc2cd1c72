"""The process that plays episodes: it steps and renders an environment and asks for actions."""

from __future__ import annotations

import logging
import signal
import time
import traceback
from multiprocessing.connection import Connection

import numpy as np

from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import Environment
from spatialvla.evaluation.play.episode_recorder import recorded
from spatialvla.evaluation.play.episode_video import video_name, write_video
from spatialvla.evaluation.play.jobs import Job
from spatialvla.evaluation.play.messages import Built, Decide, Decided, Failure, Idle, Setup
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.evaluation.results.plan import EpisodeId
from spatialvla.types import Observation

log = logging.getLogger(__name__)

_STILL = 1e-3
"""Of a unit of the actions; what is below moves nothing that a picture shows."""

_SOME_PICTURES = 3


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
    episode = EpisodeId(task, start_state)

    def over(success: bool) -> bool:
        return environment.ended or (success and ends_on_success)

    environment.start(start_state)
    step, success, frames, moved = 0, False, [], False
    with recorded(setup.recordings, episode, environment) as recorder:
        while step < limit and not over(success):
            observation = environment.observe(setup.depth)
            frames.append((step, _shown(observation)))
            connection.send(Decide(observation, start_state, step))
            decided: Decided = connection.recv()
            recorder.decided(step, observation, decided)
            for action in decided.actions[: limit - step]:
                success = bool(environment.step(action))
                recorder.moved(step, action)
                moved = moved or bool(np.abs(action[:6]).max() > _STILL)
                step += 1
                if over(success):
                    break
        if setup.recordings is not None or setup.videos is not None:
            last = environment.observe(depth=False)
            recorder.ended(step, last, success)
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
        frames.append((step, _shown(last)))
        video = video_name(episode)
        write_video(setup.videos / video, frames, setup.conventions.control_hz)
        video = f"{setup.videos.name}/{video}"
    seconds = round(time.monotonic() - began, 3)
    partial = None if environment.partial is None else bool(environment.partial)
    return EpisodeResult(task, start_state, success, step, seconds, video, partial, chose=environment.chose)


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

"""Demonstrations of a whole suite: recorded in worker processes, resumable, stored as a LeRobot dataset."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from spatialvla.actions.fitting import check_fit
from spatialvla.actions.units import LIBERO
from spatialvla.data.episodes import TAKEOVER
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.extrinsics import EXTRINSICS
from spatialvla.data.lerobot.feature_mapping import INTRINSICS
from spatialvla.data.lerobot.features import depth_feature
from spatialvla.errors import InputError
from spatialvla.policy import Policy
from spatialvla.simulation.libero.demonstration import Demonstration, demonstrate
from spatialvla.simulation.libero.env import FPS, LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.recording_config import RecordingConfig, Views
from spatialvla.simulation.libero.tasks import tasks
from spatialvla.simulation.libero.viewpoints import viewpoints
from spatialvla.types import ACTION_AXES

STATE_NAMES = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right")
FIRST_CAMERA_ALONE = Views()
_ATTEMPTS = 5  # start states tried for one episode before giving up
_CAMERAS = 1  # the last part of the seed that cameras are drawn by


def record_demonstrations(config: RecordingConfig) -> None:
    """Records successful episodes of each task of a suite into a LeRobot v3 dataset.

    Episodes wait in `<out>.episodes`, or in `config.episodes`, until all are there; a killed run goes on with
    them.
    Raises InputError if the dataset is there already, the expert does not know a task, or the policy's actions
    are not those of LIBERO's controller.
    """
    out = config.out
    if (out / "meta").exists():
        raise InputError(f"{out} already holds a dataset; write into a new folder.")
    depth_video = None
    if config.depth_video != "none":
        depth_video = DepthQuantization.of(config.depth_video, config.depth_range)
    if config.policy is not None:
        _check_policy(config.policy, config.unknown_units)
    pending = config.episodes or out.with_name(f"{out.name}.episodes")
    files = record_episodes(
        pending,
        config.suite,
        config.episodes_per_task,
        config.seed,
        config.workers,
        policy=config.policy,
        only=config.tasks,
        views=config.views,
    )
    store(files, out, config.depth, depth_video)
    if config.episodes is None:
        shutil.rmtree(pending)


def _check_policy(name: str, unknown_units: bool) -> None:
    policy = Policy.from_pretrained(name)
    statistics = policy.processor.dataset_statistics(policy.dataset)
    taker = "LIBERO's controller"
    check_fit(policy.units, LIBERO, taker, statistics=statistics, unknown_units=unknown_units)


def store(
    files: Sequence[Path],
    out: Path,
    depth: bool = True,
    depth_video: DepthQuantization | None = None,
) -> None:
    """Writes recorded episodes into a LeRobot v3 dataset, in the order given; a killed run goes on.

    depth_video: store the depth as 12-bit video in these steps; as images in whole millimeters unless given.
    Raises InputError where not all were seen by the same cameras.
    """
    first = Demonstration.load(files[0])
    size = first.images.shape[1:]
    features = [
        Feature("observation.images.agentview", "video", size),
        Feature("observation.state", "float32", (8,), STATE_NAMES),
        Feature(INTRINSICS, "float32", (3, 3)),
        Feature("observation.camera_pose", "float32", (4, 4)),
        Feature(EXTRINSICS, "float32", (4, 4)),
        Feature("action", "float32", (7,), ACTION_AXES),
        Feature(TAKEOVER, "float32", (1,)),
    ]
    for camera in first.others:
        features += [
            Feature(f"observation.images.{camera}", "video", size),
            Feature(f"{INTRINSICS}.{camera}", "float32", (3, 3)),
            Feature(f"{EXTRINSICS}.{camera}", "float32", (4, 4)),
        ]
    if depth:
        for camera in ("agentview", *first.others):
            features.append(depth_feature(f"observation.depth.{camera}", size[:2], depth_video))
    writer = LeRobotWriter(out, FPS, features, robot_type="panda", resume=True, units=LIBERO)
    for file in files[writer.total_episodes :]:
        episode = Demonstration.load(file)
        if set(episode.others) != set(first.others):
            raise InputError(
                f"{file} was seen by {_listed(episode)} and {files[0]} by {_listed(first)}; record into another "
                "folder of episodes."
            )
        writer.add_episode(_frames(episode, depth), episode.instruction)
    writer.finalize()


def _frames(episode: Demonstration, depth: bool) -> dict[str, np.ndarray]:
    """(T, …) each feature's values."""
    steps = (len(episode), 1, 1)
    frames = {
        "observation.images.agentview": episode.images,
        "observation.state": episode.proprioception,
        INTRINSICS: np.tile(episode.intrinsics, steps),
        "observation.camera_pose": np.tile(episode.camera_pose, steps),
        EXTRINSICS: np.tile(episode.extrinsics, steps),
        "action": episode.actions,
        TAKEOVER: episode.takeover,
    }
    for camera, view in episode.others.items():
        frames[f"observation.images.{camera}"] = view.images
        frames[f"{INTRINSICS}.{camera}"] = np.tile(view.intrinsics, steps)
        frames[f"{EXTRINSICS}.{camera}"] = view.extrinsics
    if depth:
        frames["observation.depth.agentview"] = episode.depth.astype(np.float32)
        for camera, view in episode.others.items():
            frames[f"observation.depth.{camera}"] = view.depth.astype(np.float32)
    return frames


def _listed(episode: Demonstration) -> str:
    return ", ".join(("agentview", *episode.others))


def record_episodes(
    folder: Path,
    suite: str,
    episodes_per_task: int,
    seed: int,
    workers: int,
    image_size: int = 128,
    policy: str | None = None,
    only: Sequence[int] = (),
    views: Views = FIRST_CAMERA_ALONE,
) -> list[Path]:
    """Records the missing episodes of a suite, and returns the files of all, task by task.

    Episode k of a task depends on `seed`, the task, k and the policy only, so a killed run goes on where it
    stopped. What happens in it does not depend on `views`.
    Raises InputError if an episode cannot be finished from several start states.
    """
    chosen = list(only) or list(range(len(tasks(suite))))
    if unknown := set(chosen) - set(range(len(tasks(suite)))):
        raise InputError(f"{suite} has the tasks 0 to {len(tasks(suite)) - 1}, not {min(unknown)}.")
    wanted = {
        task: [folder / f"task_{task:02d}_episode_{k:04d}.npz" for k in range(episodes_per_task)]
        for task in chosen
    }
    # A fresh process for each task: the simulator never gives its drawing memory back.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        running = [
            pool.submit(_record_task, suite, task, seed, image_size, missing, policy, views)
            for task, files in wanted.items()
            if (missing := [(k, file) for k, file in enumerate(files) if not file.exists()])
        ]
        for task_recorded in running:
            task_recorded.result()
    return [file for files in wanted.values() for file in files]


def _record_task(
    suite: str,
    task: int,
    seed: int,
    image_size: int,
    missing: list[tuple[int, Path]],
    policy_path: str | None,
    views: Views,
) -> None:
    os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software renderer; one core a worker
    torch.set_num_threads(1)
    policy = Policy.from_pretrained(policy_path) if policy_path else None
    env = LiberoEnv(tasks(suite)[task], image_size, rendering="fast")
    expert = LiberoExpert(env)
    for episode, file in missing:
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([seed, task, episode, attempt])
            cameras = np.random.default_rng([seed, task, episode, attempt, _CAMERAS])
            others = viewpoints(env, cameras, views)
            demonstration = demonstrate(env, expert, rng, policy=policy, others=others)
            if demonstration:
                demonstration.save(file)
                break
        else:
            raise InputError(f"The expert failed {_ATTEMPTS} times at {env.task.name}; change the seed.")
    env.close()

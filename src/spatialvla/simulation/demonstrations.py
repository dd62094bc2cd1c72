"""Demonstrations of the scripted expert: recorded in worker processes, resumable, stored for LeRobot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.errors import InputError
from spatialvla.simulation.disturbance import Disturbance
from spatialvla.simulation.expert import Expert
from spatialvla.simulation.libero import LiberoEnv
from spatialvla.simulation.tasks import tasks

FPS = 20
STEP_LIMIT = 220  # the benchmark's limit for LIBERO-Spatial
STATE_NAMES = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right")
ACTION_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
_ATTEMPTS = 5  # start states tried for one episode before giving up


@dataclass(frozen=True)
class Demonstration:
    """One successful episode of T control steps.

    images (T, H, W, 3) uint8 and depth (T, H, W) float16 metres: what the camera saw before each action.
    actions (T, 7) float32: what the undisturbed expert does there; gripper 1 = open.
    proprioception (T, 8) float32. states (T, N) float64: `LiberoEnv.state()`.
    intrinsics (3, 3) float32. instruction: of the task.
    """

    images: np.ndarray
    depth: np.ndarray
    actions: np.ndarray
    proprioception: np.ndarray
    states: np.ndarray
    intrinsics: np.ndarray
    instruction: str

    def save(self, path: Path) -> None:
        """Writes the episode to one .npz file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        with open(unfinished, "wb") as file:
            np.savez_compressed(file, **asdict(self))
        os.replace(unfinished, path)

    @classmethod
    def load(cls, path: Path) -> Demonstration:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            fields = {name: archive[name] for name in cls.__dataclass_fields__}
        return cls(**{**fields, "instruction": str(fields["instruction"])})


def record_demonstrations(
    out: Path, suite: str, episodes_per_task: int, seed: int = 0, workers: int = 2, depth: bool = True
) -> None:
    """Records successful episodes of each task of a suite into a LeRobot v3 dataset.

    Episodes wait in `<out>.episodes` until all are there; a killed run goes on with them.
    depth: also store the simulator's depth, in whole millimetres.
    Raises InputError if `out` already holds a dataset, or the expert does not know the suite.
    """
    pending = out.with_name(f"{out.name}.episodes")
    files = record_episodes(pending, suite, episodes_per_task, seed, workers)
    store(files, out, depth)
    shutil.rmtree(pending)


def store(files: Sequence[Path], out: Path, depth: bool = True) -> None:
    """Writes recorded episodes into a LeRobot v3 dataset, in the order given."""
    size = Demonstration.load(files[0]).images.shape[1:]
    features = [
        Feature("observation.images.agentview", "video", size),
        Feature("observation.state", "float32", (8,), STATE_NAMES),
        Feature("observation.intrinsics", "float32", (3, 3)),
        Feature("action", "float32", (7,), ACTION_NAMES),
    ]
    if depth:
        features.append(Feature("observation.depth.agentview", "depth", size[:2]))
    writer = LeRobotWriter(out, FPS, features, robot_type="panda", resume=True)
    for file in files[writer.total_episodes :]:
        episode = Demonstration.load(file)
        frames = {
            "observation.images.agentview": episode.images,
            "observation.state": episode.proprioception,
            "observation.intrinsics": np.tile(episode.intrinsics, (len(episode.images), 1, 1)),
            "action": episode.actions,
        }
        if depth:
            frames["observation.depth.agentview"] = episode.depth.astype(np.float32)
        writer.add_episode(frames, episode.instruction)
    writer.finalize()


def demonstrate(
    env: LiberoEnv, expert: Expert, rng: np.random.Generator, disturbed: bool = True, draw: bool = True
) -> Demonstration | None:
    """One episode from a freshly sampled start state; None if it did not succeed within the time limit.

    draw: False leaves images and depth empty, which is much faster.
    """
    env.sample_state(rng)
    env.settle()
    disturb = Disturbance(rng) if disturbed else None
    if disturb:
        for action in disturb.displacement():
            env.step(action)
    frames: list[tuple] = []
    for _ in range(STEP_LIMIT):
        action = expert()
        image, depth = env.render_rgbd() if draw else (np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0)))
        frames.append((image, depth.astype(np.float16), action, env.proprioception(), env.state()))
        if env.step(disturb(action) if disturb else action):
            images, depths, actions, proprioception, states = map(np.stack, zip(*frames, strict=True))
            return Demonstration(
                images,
                depths,
                actions,
                proprioception.astype(np.float32),
                states,
                env.intrinsics.astype(np.float32),
                env.task.language,
            )
    return None


def record_episodes(
    folder: Path, suite: str, episodes_per_task: int, seed: int, workers: int, image_size: int = 128
) -> list[Path]:
    """Records the missing episodes of a suite, and returns the files of all, task by task.

    Episode k of a task depends on `seed`, the task and k only, so a killed run goes on where it stopped.
    Raises InputError if an episode cannot be finished from several start states.
    """
    wanted = [
        [folder / f"task_{task:02d}_episode_{k:04d}.npz" for k in range(episodes_per_task)]
        for task in range(len(tasks(suite)))
    ]
    jobs = [
        (suite, task, seed, image_size, missing)
        for task, files in enumerate(wanted)
        if (missing := [(k, file) for k, file in enumerate(files) if not file.exists()])
    ]
    # A fresh process for each task: the simulator never gives its drawing memory back.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        list(pool.map(_record_task, *zip(*jobs, strict=True))) if jobs else None
    return [file for files in wanted for file in files]


def _record_task(suite: str, task: int, seed: int, image_size: int, missing: list[tuple[int, Path]]) -> None:
    os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software renderer; one core a worker
    env = LiberoEnv(tasks(suite)[task], image_size, rendering="fast")
    expert = Expert(env)
    for episode, file in missing:
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([seed, task, episode, attempt])
            demonstration = demonstrate(env, expert, rng)
            if demonstration:
                demonstration.save(file)
                break
        else:
            raise InputError(
                f"the expert failed {_ATTEMPTS} times in a row at {env.task.name}; change the seed"
            )

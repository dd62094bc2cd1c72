"""One episode of SimplerEnv's WidowX tasks: the expert plays, disturbed, now and then with a policy at the wheel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from spatialvla.geometry.camera import resize_intrinsics
from spatialvla.policy import Policy
from spatialvla.simulation.recording.demonstration import Demonstration
from spatialvla.simulation.recording.interference import Interference
from spatialvla.simulation.recording.policy_takeover import longest_episode
from spatialvla.simulation.widowx.env import CONTROL_HZ, WidowXEnv
from spatialvla.simulation.widowx.expert import WidowXExpert
from spatialvla.types import Observation

REST = 4  # steps for which the hand rests at the end: the benchmark goes on after a success, and so has a policy to
RECOVERY = 30  # steps beyond the benchmark's time limit, which disturbances may cost
PICTURE = (192, 256)  # height and width in pixels; evaluation shows 480 x 640
_DISTURBANCE = (0.02, 0.4)  # meters and radians
_STILL = 1e-3  # meters and radians


def demonstrate(
    env: WidowXEnv,
    expert: WidowXExpert,
    rng: np.random.Generator,
    disturbed: bool = True,
    draw_every: int = 1,
    policy: Policy | None = None,
) -> Demonstration | None:
    """One episode from freshly drawn places; None if it did not succeed within the benchmark's time limit.

    disturbed: by `Disturbance`; there is more time then.
    draw_every: so many steps; 0 never does, which is much faster. What a policy at the wheel sees is drawn, too.
    policy: drives for stretches, see `Takeover`; such an episode may take longer, too.
    """
    env.sample_state(rng)
    longest = longest_episode(env.task.time_limit, policy) + (RECOVERY if disturbed else 0)
    interfere = Interference(rng, disturbed, policy, longest, _DISTURBANCE, CONTROL_HZ)
    for action in interfere.displacement():
        env.step(action)
    steps: list[tuple[np.ndarray, ...]] = []
    pictures: dict[int, tuple[np.ndarray, ...]] = {}

    image = np.zeros((0, 0, 3), np.uint8)

    def drawn() -> np.ndarray:
        nonlocal image
        if len(steps) not in pictures:
            image, depth = env.render_rgbd()
            pictures[len(steps)] = _shrunk(image, depth)
        return image

    rested = 0
    for step in range(longest):
        action = expert()
        if draw_every and step % draw_every == 0:
            drawn()
        proprioception, state = env.proprioception(), env.state()
        done, by_policy = interfere(action, partial(_observation, env, drawn), proprioception[:3])
        steps.append((action, proprioception, state, np.asarray(by_policy)))
        rests = env.step(done) and np.abs(action[:6]).max() < _STILL
        rested = rested + 1 if rests else 0
        if rested == REST:
            intrinsics = resize_intrinsics(env.intrinsics, env.photograph.shape[:2], PICTURE)
            extrinsics = env.extrinsics
            return Demonstration.of_steps(
                pictures, steps, intrinsics, extrinsics, extrinsics, env.task.instruction
            )
    return None


def _shrunk(image: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picture and depth in the size that is stored; of depth, the nearest readings."""
    size = PICTURE[::-1]
    small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(small), np.asarray(Image.fromarray(depth).resize(size, Image.Resampling.NEAREST))


def _observation(env: WidowXEnv, drawn: Callable[[], np.ndarray]) -> Observation:
    return Observation(drawn(), env.task.instruction, env.intrinsics, extrinsics=env.extrinsics)

"""One episode of SimplerEnv's WidowX tasks: the expert plays, disturbed, now and then with a policy at the wheel."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from spatialvla.geometry.camera import resize_intrinsics
from spatialvla.policy import Policy
from spatialvla.simulation.recording.demonstration import Demonstration
from spatialvla.simulation.recording.interference import Interference
from spatialvla.simulation.widowx.env import CONTROL_HZ, WidowXEnv
from spatialvla.simulation.widowx.expert import WidowXExpert
from spatialvla.types import Observation

REST = 4  # steps for which the hand rests at the end: the benchmark goes on after a success, and so has a policy to
RECOVERY = 30  # steps beyond the benchmark's time limit, which disturbances or a policy at the wheel may cost
PICTURE = (192, 256)  # height and width in pixels; evaluation shows 480 x 640
_DISTURBANCE = (0.02, 0.4)  # meters and radians
_STILL = 1e-3  # meters and radians


def demonstrate(
    env: WidowXEnv,
    expert: WidowXExpert,
    rng: np.random.Generator,
    disturbed: bool = True,
    draw: bool = True,
    policy: Policy | None = None,
) -> Demonstration | None:
    """One episode from freshly drawn places; None if it did not succeed within the benchmark's time limit.

    disturbed: by `Disturbance`; there is more time then.
    draw: False leaves images and depth empty, which is much faster.
    policy: drives for stretches, see `Takeover`; such an episode may take longer, too, and has to be drawn.
    """
    env.sample_state(rng)
    longest = env.task.time_limit + (RECOVERY if disturbed or policy else 0)
    interfere = Interference(rng, disturbed, policy, longest, _DISTURBANCE, CONTROL_HZ)
    for action in interfere.displacement():
        env.step(action)
    steps: list[tuple[np.ndarray, ...]] = []
    rested = 0
    for _ in range(longest):
        action = expert()
        image, depth = env.render_rgbd() if draw else (np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0)))
        proprioception = env.proprioception()
        done, by_policy = interfere(action, partial(_observation, env, image), proprioception[:3])
        small, readings = _shrunk(image, depth) if draw else (image, depth)
        steps.append((small, readings, action, proprioception, env.state(), np.asarray(by_policy)))
        rests = env.step(done) and np.abs(action[:6]).max() < _STILL
        rested = rested + 1 if rests else 0
        if rested == REST:
            intrinsics = resize_intrinsics(env.intrinsics, env.photograph.shape[:2], PICTURE)
            extrinsics = env.extrinsics
            return Demonstration.of_steps(steps, intrinsics, extrinsics, extrinsics, env.task.instruction)
    return None


def _shrunk(image: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picture and depth in the size that is stored; of depth, the nearest readings."""
    size = PICTURE[::-1]
    small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(small), np.asarray(Image.fromarray(depth).resize(size, Image.Resampling.NEAREST))


def _observation(env: WidowXEnv, image: np.ndarray) -> Observation:
    return Observation(image, env.task.instruction, env.intrinsics, extrinsics=env.extrinsics)

"""One episode of SimplerEnv's WidowX tasks that the expert plays, disturbed."""

from __future__ import annotations

import numpy as np
from PIL import Image

from spatialvla.geometry.camera import resize_intrinsics
from spatialvla.simulation.recording.demonstration import Demonstration, stacked
from spatialvla.simulation.recording.disturbance import Disturbance
from spatialvla.simulation.widowx.env import CONTROL_HZ, WidowXEnv
from spatialvla.simulation.widowx.expert import SPEED, WidowXExpert

REST = 4  # steps for which the hand rests at the end: the benchmark goes on after a success, and so has a policy to
PICTURE = (192, 256)  # height and width in pixels; evaluation shows 480 x 640
_DISTURBANCE = (SPEED, 0.5)  # meters and radians
_STILL = 1e-3  # meters and radians


def demonstrate(
    env: WidowXEnv,
    expert: WidowXExpert,
    rng: np.random.Generator,
    disturbed: bool = True,
    draw: bool = True,
) -> Demonstration | None:
    """One episode from freshly drawn places; None if it did not succeed within the benchmark's time limit.

    draw: False leaves images and depth empty, which is much faster.
    """
    env.sample_state(rng)
    disturb = Disturbance(rng, _DISTURBANCE, CONTROL_HZ) if disturbed else None
    if disturb:
        for action in disturb.displacement():
            env.step(action)
    frames: list[tuple[np.ndarray, ...]] = []
    rested = 0
    for _ in range(env.task.time_limit):
        action = expert()
        image, depth = _seen(env) if draw else (np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.float16))
        frames.append((image, depth, action, env.proprioception(), env.state(), np.zeros((), np.float32)))
        succeeds = env.step(disturb(action) if disturb else action)
        rested = rested + 1 if succeeds and np.abs(action[:6]).max() < _STILL else 0
        if rested == REST:
            images, depths, actions, proprioception, states, takeover = stacked(frames)
            intrinsics = resize_intrinsics(env.intrinsics, env.photograph.shape[:2], PICTURE)
            extrinsics = env.extrinsics.astype(np.float32)
            return Demonstration(
                images,
                depths,
                actions,
                proprioception.astype(np.float32),
                states,
                takeover,
                intrinsics.astype(np.float32),
                extrinsics,
                extrinsics,
                env.task.instruction,
            )
    return None


def _seen(env: WidowXEnv) -> tuple[np.ndarray, np.ndarray]:
    """The picture and its depth (float16 meters), in the size that is stored; of depth, the nearest readings."""
    image, depth = env.render_rgbd()
    size = PICTURE[::-1]
    small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(small), np.asarray(
        Image.fromarray(depth).resize(size, Image.Resampling.NEAREST), np.float16
    )

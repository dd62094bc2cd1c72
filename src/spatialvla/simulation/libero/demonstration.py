"""One demonstration: what the expert saw and did in an episode, and its file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.common.array_files import read_arrays, write_arrays
from spatialvla.common.files import replacing
from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import mirror_extrinsics
from spatialvla.policy import Policy
from spatialvla.simulation.libero.disturbance import Disturbance
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.policy_takeover import Takeover
from spatialvla.types import Observation

STEP_LIMIT = 220  # the benchmark's limit for LIBERO-Spatial
TAKEOVER_STEP_LIMIT = 260


@dataclass(frozen=True)
class Demonstration:
    """One successful episode of T control steps.

    images (T, H, W, 3) uint8 and depth (T, H, W) float16 meters: what the camera saw before each action.
    actions (T, 7) float32: what the undisturbed expert does there; gripper 1 = open.
    proprioception (T, 8) float32. states (T, N) float64: `LiberoEnv.state()`.
    takeover (T,) float32: 1 where a policy drove instead of the expert, so that the arm did something else.
    intrinsics (3, 3) and camera_pose (4, 4) float32: of the camera, as `LiberoEnv` gives them.
    extrinsics (4, 4) float32: takes points back-projected by K to the robot's base; it mirrors, as the pictures do.
    instruction: of the task.
    """

    images: np.ndarray
    depth: np.ndarray
    actions: np.ndarray
    proprioception: np.ndarray
    states: np.ndarray
    takeover: np.ndarray
    intrinsics: np.ndarray
    camera_pose: np.ndarray
    extrinsics: np.ndarray
    instruction: str

    def __len__(self) -> int:
        return len(self.actions)

    def save(self, path: Path) -> None:
        """Writes the episode to one .npz file, whole or not at all."""
        with replacing(path) as partial:
            write_arrays(partial, asdict(self) | {"instruction": np.asarray(self.instruction)}, compress=True)

    @classmethod
    def load(cls, path: Path) -> Demonstration:
        """Reads what `save` wrote. Raises InputError if it is something else."""
        try:
            archive = read_arrays(path)
            fields: dict[str, Any] = {name: archive[name] for name in cls.__dataclass_fields__}
        except (ValueError, KeyError) as error:
            raise InputError(f"{path} is no demonstration ({error}); delete it and record again.") from error
        return cls(**{**fields, "instruction": str(fields["instruction"])})


def demonstrate(
    env: LiberoEnv,
    expert: LiberoExpert,
    rng: np.random.Generator,
    disturbed: bool = True,
    draw: bool = True,
    policy: Policy | None = None,
) -> Demonstration | None:
    """One episode from a freshly sampled start state; None if it did not succeed within the time limit.

    draw: False leaves images and depth empty, which is much faster.
    policy: drives for stretches, see `Takeover`; such an episode may take longer, and has to be drawn.
    """
    env.sample_state(rng)
    env.settle()
    disturb = Disturbance(rng) if disturbed else None
    takeover = Takeover(policy, rng) if policy else None
    if disturb:
        for action in disturb.displacement():
            env.step(action)
    frames: list[tuple[np.ndarray, ...]] = []
    for _ in range(TAKEOVER_STEP_LIMIT if takeover else STEP_LIMIT):
        action = expert()
        image, depth = env.render_rgbd() if draw else (np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0)))
        seen = (image, depth, action, env.proprioception(), env.state())
        done = disturb(action) if disturb else action
        driven = takeover(_observation(env, image)) if takeover else None
        done = done if driven is None else driven
        frames.append((*seen, np.asarray(driven is not None, np.float32)))
        if env.step(done):
            images, depths, actions, proprioception, states, driven_by = map(
                np.stack, zip(*frames, strict=True)
            )
            return Demonstration(
                images,
                depths.astype(np.float16),
                actions,
                proprioception.astype(np.float32),
                states,
                driven_by,
                env.intrinsics.astype(np.float32),
                env.camera_pose.astype(np.float32),
                mirror_extrinsics(env.extrinsics).astype(np.float32),
                env.task.language,
            )
    return None


def _observation(env: LiberoEnv, image: np.ndarray) -> Observation:
    return Observation(image, env.task.language, env.intrinsics, extrinsics=env.extrinsics, mirrored=True)

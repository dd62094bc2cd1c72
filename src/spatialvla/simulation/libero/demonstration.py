"""One demonstration: what the expert saw and did in an episode, and its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
from spatialvla.simulation.libero.viewpoints import Viewpoint
from spatialvla.types import Observation

STEP_LIMIT = 220  # the benchmark's limit for LIBERO-Spatial
TAKEOVER_STEP_LIMIT = 260

_OTHERS = "others"
"""Arrays of further cameras are called `others/<camera>/<array>` in a file."""


@dataclass(frozen=True)
class RecordedView:
    """What one more camera saw in T control steps, before each action.

    images (T, H, W, 3) uint8 and depth (T, H, W) float16 meters. intrinsics (3, 3) float32.
    extrinsics (T, 4, 4) float32: as `Demonstration.extrinsics`, at each step.
    """

    images: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    extrinsics: np.ndarray


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
    others: what further cameras saw of the same episode, by name.
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
    others: Mapping[str, RecordedView] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)

    def save(self, path: Path) -> None:
        """Writes the episode to one .npz file, whole or not at all."""
        arrays = asdict(self) | {"instruction": np.asarray(self.instruction)}
        for camera, view in arrays.pop(_OTHERS).items():
            arrays |= {f"{_OTHERS}/{camera}/{name}": array for name, array in view.items()}
        with replacing(path) as partial:
            write_arrays(partial, arrays, compress=True)

    @classmethod
    def load(cls, path: Path) -> Demonstration:
        """Reads what `save` wrote. Raises InputError if it is something else."""
        try:
            archive = read_arrays(path)
            own = [name for name in cls.__dataclass_fields__ if name != _OTHERS]
            fields: dict[str, Any] = {name: archive[name] for name in own}
            cameras = dict.fromkeys(name.split("/")[1] for name in archive if name.startswith(f"{_OTHERS}/"))
            others = {
                camera: RecordedView(
                    *(archive[f"{_OTHERS}/{camera}/{name}"] for name in RecordedView.__dataclass_fields__)
                )
                for camera in cameras
            }
        except (ValueError, KeyError) as error:
            raise InputError(f"{path} is no demonstration ({error}); delete it and record again.") from error
        return cls(**{**fields, "instruction": str(fields["instruction"]), _OTHERS: others})


def demonstrate(
    env: LiberoEnv,
    expert: LiberoExpert,
    rng: np.random.Generator,
    disturbed: bool = True,
    draw: bool = True,
    policy: Policy | None = None,
    others: Sequence[Viewpoint] = (),
) -> Demonstration | None:
    """One episode from a freshly sampled start state; None if it did not succeed within the time limit.

    draw: False leaves images and depth empty, which is much faster.
    policy: drives for stretches, see `Takeover`; such an episode may take longer, and has to be drawn.
    others: further cameras that see it; what happens does not depend on them.
    """
    env.sample_state(rng)
    env.settle()
    disturb = Disturbance(rng) if disturbed else None
    takeover = Takeover(policy, rng) if policy else None
    if disturb:
        for action in disturb.displacement():
            env.step(action)
    frames: list[tuple[np.ndarray, ...]] = []
    seen_by_others: list[list[tuple[np.ndarray, ...]]] = [[] for _ in others]
    for _ in range(TAKEOVER_STEP_LIMIT if takeover else STEP_LIMIT):
        action = expert()
        image, depth = env.render_rgbd() if draw else (np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0)))
        for viewpoint, seen_by in zip(others, seen_by_others, strict=True):
            seen_by.append(_seen_from(env, viewpoint))
        seen = (image, depth, action, env.proprioception(), env.state())
        done = disturb(action) if disturb else action
        driven = takeover(_observation(env, image)) if takeover else None
        done = done if driven is None else driven
        frames.append((*seen, np.asarray(driven is not None, np.float32)))
        if env.step(done):
            images, depths, actions, proprioception, states, driven_by = _stacked(frames)
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
                {
                    viewpoint.name: _recorded(seen_by)
                    for viewpoint, seen_by in zip(others, seen_by_others, strict=True)
                },
            )
    return None


def _seen_from(env: LiberoEnv, viewpoint: Viewpoint) -> tuple[np.ndarray, ...]:
    """Image, depth, intrinsics and extrinsics, as `RecordedView` has them, of one step."""
    with env.looking_through(viewpoint.camera, viewpoint.pose):
        image, depth = env.render_rgbd()
        return image, depth.astype(np.float16), env.intrinsics, mirror_extrinsics(env.extrinsics)


def _recorded(steps: Sequence[tuple[np.ndarray, ...]]) -> RecordedView:
    images, depth, intrinsics, extrinsics = _stacked(steps)
    return RecordedView(images, depth, intrinsics[0].astype(np.float32), extrinsics.astype(np.float32))


def _stacked(steps: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Each value of all steps as one array."""
    return tuple(np.stack(values) for values in zip(*steps, strict=True))


def _observation(env: LiberoEnv, image: np.ndarray) -> Observation:
    return Observation(image, env.task.language, env.intrinsics, extrinsics=env.extrinsics, mirrored=True)

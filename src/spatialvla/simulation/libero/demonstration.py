"""One episode of LIBERO that the expert plays, disturbed and now and then with a policy at the wheel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from spatialvla.geometry.extrinsics import mirror_extrinsics
from spatialvla.policy import Policy
from spatialvla.simulation.libero.arm_state import is_published
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.tasks import time_limit
from spatialvla.simulation.libero.viewpoints import Viewpoint
from spatialvla.simulation.recording.demonstration import Demonstration, RecordedView, stacked
from spatialvla.simulation.recording.interference import Interference
from spatialvla.simulation.recording.policy_takeover import longest_episode
from spatialvla.types import Observation


def demonstrate(
    env: LiberoEnv,
    expert: LiberoExpert,
    rng: np.random.Generator,
    disturbed: bool = True,
    draw_every: int = 1,
    policy: Policy | None = None,
    others: Sequence[Viewpoint] = (),
    begin: Callable[[np.random.Generator], object] | None = None,
) -> Demonstration | None:
    """One episode from a freshly sampled start state; None if it did not succeed within the time limit.

    draw_every: so many steps; 0 never does, which is much faster. What a policy at the wheel sees is drawn, too.
    policy: drives for stretches, see `Takeover`; such an episode may take longer.
    others: further cameras that see it; what happens does not depend on them.
    begin: moves to the start state; `LiberoEnv.sample_state` does unless given.
    """
    (begin or env.sample_state)(rng)
    env.settle()
    longest = longest_episode(time_limit(env.task.suite), policy)
    interfere = Interference(rng, disturbed, policy, longest)
    for action in interfere.displacement():
        env.step(action)
    steps: list[tuple[np.ndarray, ...]] = []
    pictures: dict[int, tuple[np.ndarray, ...]] = {}
    seen_by_others: list[list[tuple[np.ndarray, ...]]] = [[] for _ in others]

    def drawn() -> np.ndarray:
        step = len(steps)
        if step not in pictures:
            pictures[step] = env.render_rgbd()
            for viewpoint, seen_by in zip(others, seen_by_others, strict=True):
                seen_by.append(_seen_from(env, viewpoint))
        return pictures[step][0]

    for step in range(longest):
        action = expert()
        if draw_every and step % draw_every == 0:
            drawn()
        proprioception, state = env.proprioception(), env.state()
        done, by_policy = interfere(
            action, partial(_observation, env, drawn, policy, others), proprioception[:3]
        )
        steps.append((action, proprioception, state, np.asarray(by_policy)))
        if env.step(done):
            return Demonstration.of_steps(
                pictures,
                steps,
                env.intrinsics,
                env.camera_pose,
                mirror_extrinsics(env.extrinsics),
                env.task.language,
                {
                    viewpoint.name: _recorded(seen_by)
                    for viewpoint, seen_by in zip(others, seen_by_others, strict=True)
                    if seen_by
                },
            )
    return None


def _seen_from(env: LiberoEnv, viewpoint: Viewpoint) -> tuple[np.ndarray, ...]:
    """Image, depth, intrinsics and extrinsics, as `RecordedView` has them, of one step."""
    with env.looking_through(viewpoint.camera, viewpoint.pose):
        image, depth = env.render_rgbd()
        return image, depth.astype(np.float16), env.intrinsics, mirror_extrinsics(env.extrinsics)


def _recorded(steps: Sequence[tuple[np.ndarray, ...]]) -> RecordedView:
    images, depth, intrinsics, extrinsics = stacked(steps)
    return RecordedView(images, depth, intrinsics[0].astype(np.float32), extrinsics.astype(np.float32))


def _observation(
    env: LiberoEnv, drawn: Callable[[], np.ndarray], policy: Policy | None, others: Sequence[Viewpoint]
) -> Observation:
    """What the policy learned from: the first camera's picture, and the others and the state where it takes them."""
    images = {}
    for viewpoint in others:
        if policy and viewpoint.name in policy.camera_names:
            with env.looking_through(viewpoint.camera, viewpoint.pose):
                images[viewpoint.name] = env.look()
    return Observation(
        drawn(),
        env.task.language,
        env.intrinsics,
        extrinsics=env.extrinsics,
        mirrored=True,
        images=images,
        state=env.proprioception(published=is_published(policy.state_names))
        if policy and policy.state_names
        else None,
    )

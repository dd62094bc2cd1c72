"""How well a moving gripper tells that a camera was pushed: alarms over LIBERO-Spatial's tasks.

    python benchmarks/camera_drift.py --episodes 4        # of each task; a quarter of an hour

The expert plays, watched by the benchmark's camera or, in each second episode, by one that stands elsewhere around
the table, as calibrated and after five pushes in random directions. One stretch of motion of up to 48 pictures decides.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from spatialvla.geometry.camera_drift import find_gripper
from spatialvla.geometry.extrinsics import inverse, mirror_extrinsics, pose_matrix, project, transform
from spatialvla.geometry.rotations import matrices
from spatialvla.simulation.libero.camera_move import CameraMove
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.tasks import tasks

PUSHES = {
    "as calibrated": (0, 0),
    "2°": (2, 0),
    "5°": (5, 0),
    "10°": (10, 0),
    "5 cm": (0, 0.05),
    "10 cm": (0, 0.1),
}
"""Degrees about a random axis, and meters in a random direction."""


@dataclass(frozen=True)
class Judged:
    """One stretch of motion. true, found: meters right and down at the gripper's depth; found is None if not told."""

    push: str
    true: np.ndarray
    found: np.ndarray | None
    alarm: bool


def pushed(camera: np.ndarray, push: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A camera's pose after a push."""
    axis, way = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, 3)))
    turn = matrices(np.radians(push[0]) * axis[None], "axis_angle")[0]
    return pose_matrix(camera[:3, 3] + push[1] * way, camera[:3, :3] @ turn)


def play(
    env: LiberoEnv, expert: LiberoExpert, usual: np.ndarray, episode: int, rng: np.random.Generator
) -> list[Judged]:
    """One episode, watched by all cameras."""
    camera = usual
    if episode % 2:
        azimuth, elevation, distance = rng.integers([-60, -5, 85], [61, 31, 140])
        camera = CameraMove(int(azimuth) % 360, int(elevation) % 360, int(distance)).applied(usual)
    cameras = {name: pushed(camera, push, rng) for name, push in PUSHES.items()}
    places = {}
    for name, pose in cameras.items():
        env.place_camera(pose)
        places[name] = mirror_extrinsics(env.extrinsics)
    told, world = places["as calibrated"], mirror_extrinsics(env.extrinsics) @ inverse(env.camera_pose)
    env.sample_state(rng)
    env.settle()
    images: dict[str, list[np.ndarray]] = {name: [] for name in cameras}
    track: list[np.ndarray] = []
    done = False
    while not done and len(track) < 220:
        for name, pose in cameras.items():
            env.place_camera(pose)
            images[name].append(env.render())
        track.append(transform(world, env.gripper_position[None])[0])
        done = env.step(expert())
    positions, K = np.array(track), env.intrinsics
    expected, depth = project(positions, K, told)
    judged = []
    for name, seen in images.items():
        shift = project(positions, K, places[name])[0] - expected
        found = find_gripper(np.array(seen), positions, K, told)
        clear = None if found is None or not found.clear else found.offset
        true = np.nanmedian(shift / K[0, 0] * depth[:, None], axis=0)
        judged.append(Judged(name, true, clear, found is not None and found.drifted))
    return judged


def main() -> None:
    """Plays, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=4)
    arguments = parser.parse_args()
    judged: list[Judged] = []
    for number, task in enumerate(tasks("libero_spatial")):
        env = LiberoEnv(task, 128, rendering="fast")
        expert, usual = LiberoExpert(env), mirror_extrinsics(env.camera_pose)
        for episode in range(arguments.episodes):
            judged += play(env, expert, usual, episode, np.random.default_rng([77, number, episode]))
        env.close()
    print(f"{'push':14}{'the gripper is seen off by':>28}{'found':>20}{'alarms':>14}{'nothing said':>14}")
    for name in PUSHES:
        of_push = [one for one in judged if one.push == name]
        true = np.linalg.norm([one.true for one in of_push], axis=1)
        found = np.linalg.norm([one.found for one in of_push if one.found is not None], axis=1)
        alarms, silent = sum(one.alarm for one in of_push), sum(one.found is None for one in of_push)
        print(
            f"{name:14}{np.median(true):20.3f} m {np.median(found):14.3f} to {found.max():.3f} m"
            f"{alarms:6d} of {len(of_push)}{silent:14d}"
        )
    errors = np.linalg.norm([one.found - one.true for one in judged if one.found is not None], axis=1)
    print(f"error: median {np.median(errors):.3f} m, 95 % below {np.quantile(errors, 0.95):.3f} m")


if __name__ == "__main__":
    main()

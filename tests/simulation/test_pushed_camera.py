"""A camera that has been pushed, in LIBERO: whether the moving gripper tells."""

import numpy as np
import pytest
from cameras import rotation

from spatialvla.geometry.camera_drift import find_gripper
from spatialvla.geometry.extrinsics import inverse, mirror_extrinsics, pose_matrix, transform
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.tasks import tasks

pytestmark = pytest.mark.sim

MOVES = {
    "as calibrated": np.eye(4),
    "2° to the side": pose_matrix(np.zeros(3), rotation(np.radians([0, 2, 0]))),
    "10° to the side": pose_matrix(np.zeros(3), rotation(np.radians([0, 10, 0]))),
    "10° downwards": pose_matrix(np.zeros(3), rotation(np.radians([-10, 0, 0]))),
    "15 cm to the side": pose_matrix(np.array([0.15, 0, 0]), np.eye(3)),
}


def test_a_pushed_camera_is_told_by_the_moving_gripper():
    """The expert's own motion in one episode; `docs/explanation/calibration.md` has the rates over many."""
    pytest.importorskip("libero")
    env = LiberoEnv(tasks("libero_spatial")[0], image_size=128, rendering="fast")
    expert, told, usual = (
        LiberoExpert(env),
        mirror_extrinsics(env.extrinsics),
        mirror_extrinsics(env.camera_pose),
    )
    world = told @ inverse(env.camera_pose)  # world -> robot base
    env.sample_state(np.random.default_rng(3))
    env.settle()
    images, positions, done = {name: [] for name in MOVES}, [], False
    while not done and len(positions) < 220:
        for name, move in MOVES.items():
            env.place_camera(usual @ move)
            images[name].append(env.render())
        positions.append(transform(world, env.gripper_position[None])[0])
        done = env.step(expert())
    found = {
        name: find_gripper(np.array(seen), np.array(positions), env.intrinsics, told)
        for name, seen in images.items()
    }
    env.close()
    assert all(sighting is not None and sighting.clear for sighting in found.values())
    assert {name for name, sighting in found.items() if not sighting.drifted} == {
        "as calibrated",
        "2° to the side",
    }
    assert found["as calibrated"].distance < 0.06
    # The picture is mirrored: a camera turned to its right sees the gripper further right in it.
    assert found["10° to the side"].offset[0] > 0.1
    assert found["10° downwards"].offset[1] < -0.1

"""What a policy of several cameras is given by LIBERO: each camera's picture and place, and the arm's state."""

from dataclasses import replace

import numpy as np
import pytest

from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
from spatialvla.evaluation.benchmarks.libero_plus import LiberoPlusBenchmark
from spatialvla.evaluation.benchmarks.protocol import Inputs
from spatialvla.evaluation.benchmarks.simpler import SimplerBenchmark
from spatialvla.evaluation.play.decisions import DecisionKeeper, KeptDecision
from spatialvla.evaluation.play.worker import _shown
from spatialvla.evaluation.results.plan import EpisodeId
from spatialvla.geometry.extrinsics import mirror_extrinsics, project, transform
from spatialvla.serving.vla_eval.conventions import LIBERO
from spatialvla.types import ActionChunk, CameraImage, Observation

STATE = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right")
EULER = ("x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper")


def seen_by_all() -> Observation:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    wrist = CameraImage(pictures[1], 9 * np.eye(3), np.ones((8, 8)), np.eye(4), mirrored=True)
    K, place = np.eye(3), 2 * np.eye(4)
    return Observation(pictures[0], "go", K, None, place, True, {"wrist": wrist}, np.arange(8.0))


def same(one: CameraImage | Observation, other: CameraImage | Observation) -> bool:
    return all(
        np.array_equal(getattr(one, part), getattr(other, part)) for part in CameraImage.__dataclass_fields__
    )


def test_what_a_benchmark_lacks_is_named():
    inputs = Inputs(("wrist", "front"), STATE)
    assert LiberoBenchmark(128, inputs).left_out == ("the camera 'front'",)
    assert LiberoBenchmark(128, inputs).others == {"wrist": "robot0_eye_in_hand"}
    assert LiberoBenchmark(128, Inputs(("robot0_eye_in_hand",))).left_out == ()
    assert LiberoBenchmark(128, Inputs((), EULER)).left_out == (f"the arm's state ({', '.join(EULER)})",)
    assert LiberoBenchmark(128, Inputs((), STATE[:7])).left_out
    assert LiberoBenchmark(128, Inputs((), tuple(f"state_{n}" for n in range(8)))).left_out == ()
    assert SimplerBenchmark(inputs=inputs).left_out == (
        "the camera 'wrist'",
        "the camera 'front'",
        "the arm's state",
    )
    assert LiberoBenchmark().left_out == SimplerBenchmark().left_out == ()


CONVERTED = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper")


@pytest.mark.parametrize(
    ("names", "published"), [(STATE, False), (CONVERTED, True), (tuple(f"state_{n}" for n in range(8)), True)]
)
def test_which_of_two_states_is_given_is_told_by_its_names(names, published):
    benchmark = LiberoBenchmark(128, Inputs((), names))
    assert benchmark.gives_state
    assert benchmark.published_state == published
    told = benchmark.conventions("libero_spatial").state
    assert ("rotation vector of the hand" in told) == published
    assert LIBERO.state_for(names).key == ("states" if published else "controller_states")


def test_a_policy_can_be_made_to_do_without():
    inputs = Inputs(("wrist",), STATE)
    assert inputs.without(()) == inputs
    assert inputs.without(("wrist",)) == Inputs((), STATE)
    assert inputs.without(("state", "wrist")) == Inputs()
    with pytest.raises(InputError, match=r"takes no 'front' .*; it takes wrist, state\."):
        inputs.without(("front",))
    with pytest.raises(InputError, match=r"its first camera alone\."):
        Inputs().without(("state",))


def test_decisions_are_kept_with_all_that_was_seen(tmp_path):
    chunk = ActionChunk(np.zeros((4, 7)), np.zeros((4, 3), np.int64))
    keeper = DecisionKeeper(1, tmp_path)
    keeper.expect({0: 0})
    keeper.add(0, 0, KeptDecision(3, seen_by_all(), chunk))
    keeper.ended(0, 0)
    again = DecisionKeeper(1, tmp_path)
    again.expect({0: 0}, {EpisodeId(0, 0)})
    (decision,) = again.kept[0]
    seen = decision.observation
    assert same(seen, seen_by_all())
    assert seen.images.keys() == {"wrist"}
    assert same(seen.images["wrist"], seen_by_all().images["wrist"])
    np.testing.assert_array_equal(seen.state, np.arange(8))
    assert (decision.step, seen.instruction) == (3, "go")


def test_videos_show_all_cameras_side_by_side():
    seen = seen_by_all()
    np.testing.assert_array_equal(_shown(seen), np.hstack([seen.image, seen.images["wrist"].image]))
    np.testing.assert_array_equal(_shown(replace(seen, images={})), seen.image)


@pytest.mark.sim
def test_rules_say_what_is_given():
    pytest.importorskip("libero")
    rules = LiberoBenchmark(128, Inputs(("wrist",), STATE)).conventions("libero_spatial")
    assert rules.camera == "agentview; wrist: robot0_eye_in_hand"
    assert rules.state
    alone = LiberoBenchmark().conventions("libero_spatial")
    assert (alone.camera, alone.state) == ("agentview", "")
    plus = LiberoPlusBenchmark(256, Inputs(("wrist",))).conventions("libero_plus_camera_spatial")
    assert (
        plus.camera
        == "agentview, moved where the task's name in LIBERO-plus says so; wrist: robot0_eye_in_hand"
    )


@pytest.mark.sim
def test_the_cameras_see_the_same_things_at_the_same_places():
    """What the wrist camera measures is, by K and extrinsics of both, measured in the first camera's picture, too."""
    pytest.importorskip("libero")
    benchmark = LiberoBenchmark(128, Inputs(("wrist", "front"), STATE))
    task = benchmark.open("libero_spatial", 2, benchmark.conventions("libero_spatial"))
    task.start(0)
    rng, matches = np.random.default_rng(0), []
    for _ in range(3):
        for action in rng.uniform(-0.4, 0.4, (6, 7)):
            task.step(action)
        seen = task.observe(depth=True)
        assert seen.images.keys() == {"wrist"}
        np.testing.assert_array_equal(seen.state, task._env.proprioception())
        wrist = seen.images["wrist"]
        v, u = np.mgrid[2:128:4, 2:128:4]
        depth = wrist.depth[v, u].ravel()
        rays = np.stack([u.ravel() + 0.5, v.ravel() + 0.5, np.ones(u.size)]) * depth
        points = transform(mirror_extrinsics(wrist.extrinsics), (np.linalg.inv(wrist.intrinsics) @ rays).T)
        pixels, expected = project(points, seen.intrinsics, mirror_extrinsics(seen.extrinsics))
        inside = (depth > 0.25) & ((pixels > 2) & (pixels < 126)).all(axis=1)  # no points of the hand
        column, row = pixels[inside].astype(int).T
        matches.append(np.abs(seen.depth[row, column] - expected[inside]) < 0.02)
        colors = np.abs(seen.image[row, column].astype(int) - wrist.image[v, u].reshape(-1, 3)[inside])
        assert np.median(colors[matches[-1]]) < 25
    found = np.concatenate(matches)
    assert found.size > 300
    assert found.mean() > 0.7  # the arm hides the rest
    # A policy of one camera sees bit for bit what it saw without.
    alone = LiberoBenchmark().open("libero_spatial", 2, LiberoBenchmark().conventions("libero_spatial"))
    alone._env.close()
    alone._env = task._env
    single = alone.observe(depth=True)
    assert same(single, task.observe(depth=True))
    assert (dict(single.images), single.state) == ({}, None)
    task.close()

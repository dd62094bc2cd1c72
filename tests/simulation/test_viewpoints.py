import numpy as np
import pytest

from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.mapping_lines import Extrinsics
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import check_extrinsics, mirror_extrinsics, pose_matrix, project
from spatialvla.geometry.known_cameras import LIBERO_WRIST
from spatialvla.simulation.libero.demonstration import demonstrate
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.recorder import LiberoRecorder
from spatialvla.simulation.libero.tasks import tasks
from spatialvla.simulation.libero.viewpoints import draw_pose, viewpoints
from spatialvla.simulation.recorders import record_demonstrations
from spatialvla.simulation.recording.config import RecordingConfig, Views
from spatialvla.simulation.recording.demonstration import Demonstration
from spatialvla.simulation.recording.recorder import record_episodes

AGENTVIEW = pose_matrix(
    np.array([0.6586, 0.0, 1.6104]), np.array([[0, 0.6283, -0.778], [1, 0, 0], [0, -0.778, -0.6283]])
)


def _azimuth(pose: np.ndarray, center: np.ndarray) -> float:
    away = pose[:3, 3] - center
    return float(np.degrees(np.arctan2(away[1], away[0])))


def test_drawn_cameras_look_at_the_workspace_from_everywhere_in_front_of_it():
    rng = np.random.default_rng(0)
    poses = np.array([check_extrinsics(draw_pose(rng, AGENTVIEW, 0.9)) for _ in range(300)])
    center = AGENTVIEW[:3, 3] + AGENTVIEW[:3, 2] * (0.9 - AGENTVIEW[2, 3]) / AGENTVIEW[2, 2]
    fixed = np.linalg.norm(AGENTVIEW[:3, 3] - center)
    away = poses[:, :3, 3] - center
    distance = np.linalg.norm(away, axis=1) / fixed
    assert 0.7 < distance.min() < 1
    assert 1.8 < distance.max() < 2.2
    elevation = np.degrees(np.arcsin(away[:, 2] / np.linalg.norm(away, axis=1)))
    assert 15 < elevation.min() < 30
    assert 60 < elevation.max() < 75
    azimuth = np.array([_azimuth(pose, center) for pose in poses])
    assert -95 < azimuth.min() < -70
    assert 70 < azimuth.max() < 95
    assert len(np.unique(azimuth)) == 300  # drawn, not chosen from a list
    # The workspace's center is in the middle half of the picture, and the picture stands upright.
    seen, depth = (
        np.array([project(center[None], np.diag([1, 1, 1]), pose)[0][0] for pose in poses]),
        distance,
    )
    assert (np.abs(seen) < np.tan(np.radians(45 / 2)) / 2 + 0.05).all()
    assert (depth > 0).all()
    assert (poses[:, 2, 1] < 0).all()


def test_the_same_seed_draws_the_same_camera():
    first, again, other = (draw_pose(np.random.default_rng(seed), AGENTVIEW, 0.9) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


@pytest.mark.parametrize("count", [0, -1, 9])
def test_too_many_or_too_few_random_views_are_refused(tmp_path, count):
    with pytest.raises(InputError, match=f"1 to 8 random views, not {count}"):
        RecordingConfig(tmp_path, cameras="random", random_views=count)


def test_a_fixed_camera_is_alone_unless_the_wrists_is_asked_for(tmp_path):
    assert RecordingConfig(tmp_path).views.names == ()
    assert RecordingConfig(tmp_path, wrist=True).views.names == ("wrist",)
    both = RecordingConfig(tmp_path, cameras="random", wrist=True)
    assert both.views.names == ("random_0", "random_1", "wrist")


@pytest.fixture(scope="module")
def env() -> LiberoEnv:
    pytest.importorskip("libero")
    return LiberoEnv(tasks("libero_spatial")[2], image_size=128)


@pytest.mark.sim
def test_the_gripper_is_seen_where_each_cameras_calibration_says(env):
    """A green ball between the fingertips, in pictures from many sides and from the hand."""
    ball = env._robot.eef_site_id
    color, size = env.model.site_rgba[ball].copy(), env.model.site_size[ball].copy()
    env.sample_state(np.random.default_rng(3))
    env.settle()
    try:
        env.model.site_rgba[ball], env.model.site_size[ball] = [0, 1, 0, 1], 0.025
        base = env.data.body(env._robot.robot_model.root_body)
        gripper = (env.gripper_position - base.xpos) @ base.xmat.reshape(3, 3)
        errors = []
        for viewpoint in viewpoints(env, np.random.default_rng(0), Views(8, wrist=True)):
            with env.looking_through(viewpoint.camera, viewpoint.pose):
                red, green, blue = np.moveaxis(env.render().astype(int), 2, 0)
                expected, _ = project(gripper[None], env.intrinsics, mirror_extrinsics(env.extrinsics))
            rows, columns = np.nonzero((green > red + 80) & (green > blue + 80))
            if len(rows) > 8:  # else the hand covers it
                ((u, v),) = expected
                assert columns.min() - 1 <= u <= columns.max() + 2
                assert rows.min() - 1 <= v <= rows.max() + 2
                middle = [(columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2]
                errors.append(np.abs(middle - expected[0]).max())
        assert len(errors) >= 5
        assert np.median(errors) < 0.6  # pixels of 128; where fingers cover a part of the ball it is more
    finally:
        env.model.site_rgba[ball], env.model.site_size[ball] = color, size


@pytest.mark.sim
def test_looking_through_another_camera_leaves_everything_as_it_was(env):
    env.sample_state(np.random.default_rng(1))
    state, pose, picture = env.state(), env.camera_pose, env.render()
    (other,) = viewpoints(env, np.random.default_rng(0), Views(1))
    with env.looking_through(other.camera, other.pose):
        np.testing.assert_allclose(mirror_extrinsics(env.camera_pose), other.pose, atol=1e-6)
        assert np.abs(env.render().astype(int) - picture).mean() > 10
    np.testing.assert_array_equal(env.state(), state)
    np.testing.assert_array_equal(env.camera_pose, pose)
    np.testing.assert_array_equal(env.render(), picture)


@pytest.mark.sim
@pytest.mark.slow
def test_a_demonstration_is_the_same_whoever_sees_it(tmp_path):
    pytest.importorskip("libero")
    config = RecordingConfig(tmp_path / "alone", tasks=(2,), episodes_per_task=1, workers=1)
    alone = record_episodes(LiberoRecorder(image_size=32), config, tmp_path / "alone")
    config = RecordingConfig(
        tmp_path / "dataset",
        tasks=(2,),
        episodes_per_task=1,
        workers=1,
        cameras="random",
        random_views=1,
        wrist=True,
        depth_video="log",
        episodes=tmp_path / "seen",
    )
    record_demonstrations(config)
    (file,) = (tmp_path / "seen").glob("*.npz")
    first, seen = Demonstration.load(alone[0]), Demonstration.load(file)
    np.testing.assert_array_equal(first.actions, seen.actions)
    np.testing.assert_array_equal(first.states, seen.states)
    assert list(seen.others) == ["random_0", "wrist"]
    placed, carried = seen.others["random_0"].extrinsics, seen.others["wrist"].extrinsics
    assert (placed == placed[0]).all()
    assert np.linalg.norm(np.ptp(carried[:, :3, 3], axis=0)) > 0.1

    mapping = FeatureMapping(
        image="observation.images.wrist",
        intrinsics="observation.intrinsics.wrist",
        extrinsics=Extrinsics(feature="observation.extrinsics.wrist"),
    )
    episode = LeRobotSource(tmp_path / "dataset", mapping).episode(0)
    np.testing.assert_allclose(episode.extrinsics, carried, atol=1e-5)
    expected = LIBERO_WRIST.scaled_to(128, 128).camera.intrinsics
    assert isinstance(episode.camera, Camera)
    np.testing.assert_allclose(episode.camera.intrinsics, expected, rtol=1e-5)
    depth = episode.depth([0, 5])
    assert depth is not None
    np.testing.assert_allclose(depth, seen.others["wrist"].depth[[0, 5]], atol=4e-3)


@pytest.mark.sim
def test_what_happens_does_not_depend_on_the_cameras(env):
    expert = LiberoExpert(env)
    alone = demonstrate(env, expert, np.random.default_rng([0, 2, 0]), draw_every=0)
    others = viewpoints(env, np.random.default_rng(5), Views(1, wrist=True))
    with pytest.MonkeyPatch.context() as patch:  # drawing is what takes long
        patch.setattr(
            env, "render_rgbd", lambda: (np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.float32))
        )
        seen = demonstrate(env, expert, np.random.default_rng([0, 2, 0]), others=others)
    assert alone is not None
    assert seen is not None
    np.testing.assert_array_equal(alone.states, seen.states)
    np.testing.assert_array_equal(alone.actions, seen.actions)
    assert not len(alone.drawn)


@pytest.mark.sim
def test_what_is_drawn_less_often_is_the_same(env):
    expert, others = LiberoExpert(env), viewpoints(env, np.random.default_rng(5), Views(0, wrist=True))
    often, seldom = (
        demonstrate(env, expert, np.random.default_rng([0, 2, 0]), draw_every=every, others=others)
        for every in (5, 10)
    )
    np.testing.assert_array_equal(often.actions, seldom.actions)
    np.testing.assert_array_equal(seldom.drawn, np.arange(0, len(seldom), 10))
    np.testing.assert_array_equal(often.images[::2], seldom.images)
    np.testing.assert_array_equal(often.others["wrist"].images[::2], seldom.others["wrist"].images)
    np.testing.assert_array_equal(often.others["wrist"].extrinsics[::2], seldom.others["wrist"].extrinsics)

"""Where the camera of a LeRobot dataset stands: features, constants, other frames, and what cannot be."""

from dataclasses import replace

import numpy as np
import pytest
from cameras import looking_at, rotation
from fake_source import FakeSource

from spatialvla.data.convert import convert
from spatialvla.data.frame_cache import CachedSource
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.extrinsics import mirror_extrinsics, pose_matrix

T = 5
STANDING = looking_at([1.3, 0.2, 0.7], [0.4, 0, 0.1])
MOVING = np.stack([looking_at([1.3, 0.1 * step, 0.7], [0.4, 0, 0.1]) for step in range(T)])
BASE = pose_matrix(np.array([-0.66, 0.1, 0.9]), rotation([0, 0, 0.3]))


def written(root, **features):
    """One episode; features (T, 4, 4) by the last part of their names."""
    matrices = {f"observation.{name}": values for name, values in features.items()}
    listed = [Feature("observation.images.front", "image", (16, 16, 3)), Feature("action", "float32", (7,))]
    listed += [Feature(name, "float64", values.shape[1:]) for name, values in matrices.items()]
    writer = LeRobotWriter(root, 10, listed)
    frames = {"observation.images.front": np.zeros((T, 16, 16, 3), np.uint8), "action": np.ones((T, 7))}
    writer.add_episode(frames | matrices, "push")
    writer.finalize()
    return root


def extrinsics(root, **mapping):
    return LeRobotSource(root, FeatureMapping.from_dict(mapping)).episode(0).extrinsics


def tiled(matrix):
    return np.tile(matrix, (T, 1, 1))


def test_the_feature_of_the_usual_name_is_taken_unless_another_is_named(tmp_path):
    root = written(tmp_path / "d", extrinsics=MOVING, camera_pose=tiled(STANDING))
    np.testing.assert_allclose(extrinsics(root), MOVING, atol=1e-12)
    np.testing.assert_allclose(extrinsics(root, extrinsics="observation.camera_pose"), tiled(STANDING))
    assert extrinsics(root, extrinsics="none") is None
    constant = {"matrix": STANDING.tolist()}
    np.testing.assert_allclose(extrinsics(root, extrinsics=constant), tiled(STANDING), atol=1e-12)


def test_zeros_and_no_feature_are_unknown(tmp_path):
    assert extrinsics(written(tmp_path / "d", extrinsics=np.zeros((T, 4, 4)))) is None
    assert extrinsics(written(tmp_path / "e")) is None


def test_a_first_step_that_is_left_out_takes_its_extrinsics_along(tmp_path):
    poses = np.tile(np.arange(T)[:, None] * 0.01, 7)
    root = tmp_path / "d"
    listed = [Feature("observation.images.front", "image", (16, 16, 3)), Feature("action", "float64", (7,))]
    writer = LeRobotWriter(root, 10, [*listed, Feature("observation.extrinsics", "float64", (4, 4))])
    images = np.zeros((T, 16, 16, 3), np.uint8)
    writer.add_episode(
        {"observation.images.front": images, "action": poses, "observation.extrinsics": MOVING}, "push"
    )
    writer.finalize()
    mapping = FeatureMapping.from_dict({"action": {"convention": "absolute"}})
    episode = LeRobotSource(root, mapping).episode(0)
    first = T - len(episode.actions)
    assert first == 1
    np.testing.assert_allclose(episode.extrinsics, MOVING[first:], atol=1e-12)


def test_poses_in_the_world_and_mirrored_pictures_become_what_the_robot_sees(tmp_path):
    """As `spatialvla record` stores `observation.camera_pose`: in LIBERO's world, and mirrored."""
    root = written(
        tmp_path / "d", camera_pose=tiled(BASE @ mirror_extrinsics(STANDING)), real=tiled(STANDING)
    )
    in_world = {"feature": "observation.camera_pose", "base": BASE.tolist()}
    np.testing.assert_allclose(
        extrinsics(root, extrinsics=in_world), tiled(mirror_extrinsics(STANDING)), atol=1e-12
    )
    told = {"feature": "observation.real", "mirrored": True}
    np.testing.assert_allclose(extrinsics(root, extrinsics=told), tiled(mirror_extrinsics(STANDING)))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("observation.pose", "there is no feature 'observation.pose' of 4x4 numbers"),
        ("action", "there is no feature 'action' of 4x4 numbers"),
        ({"feature": "observation.pose"}, "there is no feature 'observation.pose'"),
        ({"mirrored": True}, "either a feature or a matrix"),
        ({"feature": "action", "matrix": STANDING.tolist()}, "either a feature or a matrix"),
        ({"matrix": [[1, 0], [0]]}, "rows of different lengths"),
        ({"matrix": [[1, 0], [0, 1]]}, "must be a 4x4 matrix"),
        ({"matrix": mirror_extrinsics(STANDING).tolist()}, "must not mirror"),
        ({"feature": "action", "base": (2 * BASE).tolist()}, "last row 0 0 0 1"),
        ({"matrix": STANDING.tolist(), "mirored": True}, "unknown key 'extrinsics.mirored'"),
    ],
)
def test_lines_of_a_mapping_that_cannot_be(tmp_path, line, sentence):
    with pytest.raises(InputError, match=sentence):
        extrinsics(written(tmp_path / "d"), extrinsics=line)


def test_stored_matrices_that_cannot_be_are_named(tmp_path):
    broken = MOVING.copy()
    broken[3, :3, 3] *= 1000
    root = written(tmp_path / "d", extrinsics=broken)
    with pytest.raises(
        CheckpointError, match=r"episode 0: .*not millimeters.* 'extrinsics: …' says others, or none\."
    ):
        extrinsics(root)
    assert extrinsics(root, extrinsics="none") is None


def test_frame_cache_and_conversion_keep_them(tmp_path):
    source = FakeSource("one", (4, 3), extrinsics=mirror_extrinsics(STANDING))
    cached = CachedSource(source, 16, tmp_path / "cache")
    np.testing.assert_array_equal(cached.episode(1).extrinsics, source.episode(1).extrinsics)
    convert(source, tmp_path / "out")
    again = LeRobotSource(tmp_path / "out").episode(1).extrinsics
    np.testing.assert_allclose(again, source.episode(1).extrinsics, atol=1e-6)
    convert(replace(source, extrinsics=None), tmp_path / "bare")
    bare = LeRobotSource(tmp_path / "bare")
    assert "observation.extrinsics" not in bare.dataset.features
    assert bare.episode(0).extrinsics is None

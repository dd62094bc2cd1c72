"""Ego3D in the robot's frame: the same point has the same code, whichever camera sees it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cameras import random_camera

from spatialvla import Observation, Policy, SpatialVLA
from spatialvla.common.json_files import write_json
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import mirror_intrinsics
from spatialvla.geometry.extrinsics import check_picture_pose, inverse, mirror_extrinsics, transform
from spatialvla.geometry.workspace import AROUND_BASE, PUBLISHED, Workspace
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.decoding.chunk import decode
from spatialvla.model.fast.optimize import warm_up
from spatialvla.model.folders import SHIPPED
from spatialvla.vision.ego3d import Ego3DPositionEncoding, patch_points

GOLDENS = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
DATASET = "tiny_robot/0.1.0"
IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
K = np.array([[8.0, 0.1, 4.1], [0, 8.2, 3.9], [0, 0, 1]])
PIXELS = np.stack(np.meshgrid(np.arange(8) + 0.5, np.arange(8) + 0.5), axis=-1).reshape(-1, 2)
RAYS = np.hstack([PIXELS, np.ones((64, 1))]) @ np.linalg.inv(K).T


def in_robot(depth, extrinsics):
    """(64, 3) where an 8 x 8 picture's pixels are in the robot's frame, one a patch."""
    tensors = (torch.from_numpy(array)[None] for array in (depth, K))
    return patch_points(*tensors, 1, 1, torch.from_numpy(extrinsics)[None])[0]


def test_points_are_where_geometry_says():
    rng = np.random.default_rng(1)
    for _ in range(10):
        depth, extrinsics = rng.uniform(0.2, 3, (8, 8)), random_camera(rng)
        expected = transform(extrinsics, RAYS * depth.reshape(-1, 1))
        np.testing.assert_allclose(in_robot(depth, extrinsics), expected, atol=1e-5)


def test_a_table_is_flat_and_at_its_height_from_every_camera():
    rng, height = np.random.default_rng(2), 0.04
    for _ in range(10):
        extrinsics = random_camera(rng)
        falls = (RAYS @ extrinsics[:3, :3].T)[:, 2]
        seen = falls < -0.1
        depth = np.where(seen, (height - extrinsics[2, 3]) / np.where(seen, falls, 1), 1.0).reshape(8, 8)
        assert seen.sum() > 20
        np.testing.assert_allclose(in_robot(depth, extrinsics)[seen, 2], height, atol=1e-5)


def test_a_point_has_the_same_code_from_two_cameras_and_another_in_each_ones_own_frame():
    torch.manual_seed(0)
    encoding, rng = Ego3DPositionEncoding(1, 8, 32), np.random.default_rng(3)
    first, second = random_camera(rng), random_camera(rng)
    depth = rng.uniform(0.5, 1.5, (8, 8))
    # The second camera moves to where its pixel 50 sees what is in the first one's pixel 20.
    point = transform(first, RAYS[20:21] * depth.flat[20])
    second[:3, 3] += (point - transform(second, RAYS[50:51] * depth.flat[50]))[0]
    codes = [encoding(in_robot(depth, camera)[None], AROUND_BASE)[0] for camera in (first, second)]
    torch.testing.assert_close(codes[0][20], codes[1][50], atol=1e-5, rtol=0)
    assert (codes[0][20] - codes[1][20]).abs().max() > 1e-3
    own = encoding(in_robot(depth, np.eye(4))[None])[0]
    assert (own[20] - own[50]).abs().max() > 1e-3


def test_the_workspace_is_the_center_and_the_unit_of_the_code():
    encoding = Ego3DPositionEncoding(1, 3, 4)
    code = encoding.frequency_encoding(torch.tensor([[[0.5, -0.2, 0.9]]]), Workspace((0.3, 0.1, 0.4), 0.5))
    x = np.array([0.4, -0.6, 1.0])
    expected = [[v, *np.sin([v, 2 * v, 4 * v]), *np.cos([v, 2 * v, 4 * v])] for v in x]
    np.testing.assert_allclose(code.view(3, 7), expected, atol=1e-6)


@pytest.fixture(scope="module")
def robot(tmp_path_factory) -> Policy:
    """The reference checkpoint, told to work in the robot's frame."""
    return Policy.from_pretrained(
        edited(tmp_path_factory.mktemp("robot"), ego3d_frame="robot"), dataset=DATASET
    )


def edited(folder, **entries):
    """A copy of the reference checkpoint with other entries in its config.json."""
    shutil.copytree(GOLDENS, folder, dirs_exist_ok=True)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | entries))
    return folder


def batch_of(policy, extrinsics=None):
    poses = None if extrinsics is None else [extrinsics]
    return policy.processor([IMAGE], ["stop"], DATASET, depth=[np.full((48, 64), 0.7)], extrinsics=poses)


def test_at_the_bases_origin_both_frames_are_one(robot):
    published = SpatialVLA.from_pretrained(GOLDENS)
    expected = published.image_features(batch_of(robot))
    assert torch.equal(robot.model.image_features(batch_of(robot, np.eye(4))), expected)
    moved = random_camera(np.random.default_rng(4))
    assert torch.equal(published.image_features(batch_of(robot, moved)), expected), "not used"
    assert not torch.allclose(robot.model.image_features(batch_of(robot, moved)), expected, atol=1e-4)


def test_the_whole_way_from_an_observation_takes_the_extrinsics_along(robot):
    moved = random_camera(np.random.default_rng(5))
    seen = Observation(IMAGE, "stop", depth=np.full((48, 64), 0.7), extrinsics=moved)
    row = robot.prepare(seen)
    np.testing.assert_array_equal(
        row.views[0].extrinsics, moved
    )  # scaled to the model's size, and still there
    ids = decode(robot.model.passes, batch_of(robot, moved)).ids
    expected = robot.processor.tokens(ids)[0]
    np.testing.assert_array_equal(robot.predict([seen])[0].tokens, expected)
    drafted = robot.predict([seen], drafts=[expected])[0]
    np.testing.assert_array_equal(drafted.tokens, expected)


def test_a_mirrored_picture_shows_the_same_points():
    rng = np.random.default_rng(6)
    depth, extrinsics = rng.uniform(0.2, 3, (8, 8)), random_camera(rng)
    tensors = (np.ascontiguousarray(depth[:, ::-1]), mirror_intrinsics(K, 8), mirror_extrinsics(extrinsics))
    flipped = patch_points(
        *(torch.from_numpy(a)[None] for a in tensors[:2]), 1, 1, torch.from_numpy(tensors[2])[None]
    )
    straight = in_robot(depth, extrinsics).view(8, 8, 3)
    np.testing.assert_allclose(flipped[0].view(8, 8, 3).flip(1), straight, atol=1e-5)


def test_observations_say_that_a_picture_is_mirrored(robot):
    moved = random_camera(np.random.default_rng(7))
    seen = Observation(IMAGE, "stop", extrinsics=moved, mirrored=True)
    np.testing.assert_array_equal(robot.prepare(seen).views[0].extrinsics, mirror_extrinsics(moved))
    with pytest.raises(InputError, match="must not mirror"):
        robot.prepare(replace(seen, extrinsics=mirror_extrinsics(moved)))


def test_pictures_poses_may_mirror_and_are_rigid_otherwise():
    moved = random_camera(np.random.default_rng(8))
    for pose in (moved, mirror_extrinsics(moved)):
        np.testing.assert_allclose(check_picture_pose(pose), pose, atol=1e-12)
        np.testing.assert_allclose(check_picture_pose(np.round(pose, 4)), pose, atol=1e-3)
    for broken in (moved * 2, mirror_extrinsics(moved) + np.eye(4), np.eye(3), np.full((4, 4), np.nan)):
        with pytest.raises(InputError):
            check_picture_pose(broken)


def test_a_policy_says_that_it_needs_extrinsics(robot):
    with pytest.raises(
        InputError, match=r"pass extrinsics of the camera 'image'.*camera -> robot base in meters"
    ):
        robot.act(Observation(IMAGE, "stop"))
    with pytest.raises(InputError, match="pass extrinsics= to the processor"):
        robot.model.image_features(batch_of(robot))
    with pytest.raises(InputError, match="columns are orthonormal"):
        robot.act(Observation(IMAGE, "stop", extrinsics=np.diag([2.0, 2, 2, 1])))


def test_extrinsics_are_checked_where_they_are_not_used_and_change_nothing():
    policy = Policy.from_pretrained(GOLDENS, dataset=DATASET)
    seen = Observation(IMAGE, "stop")
    moved = replace(seen, extrinsics=random_camera(np.random.default_rng(9)))
    one, two = policy.predict([seen, moved])
    np.testing.assert_array_equal(one.actions, two.actions)
    with pytest.raises(InputError, match="transpose"):
        policy.predict([replace(seen, extrinsics=inverse(moved.extrinsics).T)])


def test_a_batch_has_extrinsics_in_all_rows_or_none(robot):
    bare = robot.processor.prepare(IMAGE, "stop", DATASET)
    placed = replace(bare, views=(replace(bare.views[0], extrinsics=np.eye(4)),))
    with pytest.raises(InputError, match="bring extrinsics or none does"):
        robot.processor.collate([bare, placed])
    batch = robot.processor.collate([placed] * 3)
    assert batch[:2].extrinsics.shape == (2, 4, 4)


def test_the_passes_are_warmed_up_with_extrinsics(robot):
    warm_up(robot.model.passes, 2, 3, drafts=True)


def test_the_published_configuration_is_saved_as_before():
    written = json.loads((SHIPPED / "nano" / "config.json").read_text())
    config = SpatialVLAConfig.from_folder(SHIPPED / "nano")
    assert (config.ego3d_frame, config.workspace) == ("camera", PUBLISHED)
    saved = json.loads(json.dumps(config.to_json()))
    assert list(saved.items()) == list(written.items())


@pytest.mark.parametrize("published", [GOLDENS, GOLDENS.parents[1] / "published"], ids=["tiny", "4b"])
def test_a_published_configuration_beside_its_processor_is_saved_byte_for_byte(published, tmp_path):
    config = SpatialVLAConfig.from_folder(published)
    assert (config.cameras, config.state_size) == (("image",), 0)
    write_json(tmp_path / "config.json", config.to_json(beside_processor=True))
    saved, read = ((folder / "config.json").read_bytes() for folder in (tmp_path, published))
    assert saved.rstrip() == read.rstrip()
    assert (
        SpatialVLAConfig.from_folder(published).to_json()["rotation_token_num"] == config.rotation_token_num
    )


def test_a_checkpoint_keeps_its_configuration_beside_its_processor_and_is_whole_without(tmp_path):
    policy = Policy.from_pretrained(GOLDENS, dataset=DATASET)
    policy.processor.save_pretrained(tmp_path / "both")
    for folder in ("both", "alone"):
        policy.model.save_pretrained(tmp_path / folder)
        assert SpatialVLAConfig.from_folder(tmp_path / folder) == policy.model.config
    assert (tmp_path / "both" / "config.json").read_bytes() == (GOLDENS / "config.json").read_bytes()


def test_frame_and_workspace_stay_with_the_checkpoint(robot, tmp_path):
    model = SpatialVLA.from_pretrained(GOLDENS)
    model.config = model.config.replace(ego3d_frame="robot", workspace=Workspace((0.4, 0.0, 0.1), 0.7))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["workspace"] == {
        "center": [0.4, 0.0, 0.1],
        "scale": 0.7,
    }
    assert SpatialVLAConfig.from_folder(tmp_path) == model.config


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"ego3d_frame": "world"}, "ego3d_frame is 'world' .* 'camera' and 'robot' can be used"),
        ({"ego3d_frame": ["robot"]}, "ego3d_frame is"),
        ({"workspace": {"center": [0, 0, 1]}}, "workspace"),
        ({"workspace": {"center": [0, 0], "scale": 1}}, "workspace"),
        ({"workspace": {"center": [0, 0, 1], "scale": 0}}, "scale is a positive length in meters, not 0"),
        (
            {"workspace": {"center": [0, 0, 1], "scale": 1, "radius": 2}},
            "workspace has an unknown entry 'radius'",
        ),
        ({"workspace": None}, "workspace"),
    ],
)
def test_frames_and_workspaces_that_cannot_be(tmp_path, entries, sentence):
    with pytest.raises(CheckpointError, match=sentence) as refused:
        SpatialVLAConfig.from_folder(edited(tmp_path, **entries))
    assert "\n" not in str(refused.value)

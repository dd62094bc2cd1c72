"""Several cameras of a LeRobot dataset, each with its place, and the state: by a mapping, and what cannot be."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cameras import looking_at, random_gripper_poses, rotation
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import inverse, mirror_extrinsics, pose_matrix, wrist_extrinsics
from spatialvla.geometry.robot_calibration import RobotCalibration

TWO_CAMERAS = Path(__file__).parent / "lerobot_v3_depth"
T = 5
H, W = 12, 16
K = np.array([[20.0, 0, 8], [0, 20, 6], [0, 0, 1]])
STANDING = looking_at([1.3, 0.2, 0.7], [0.4, 0, 0.1])
HAND_EYE = pose_matrix(np.array([0.0, 0.05, -0.1]), np.diag([-1.0, -1.0, 1.0]))
GRIPPER = random_gripper_poses(np.random.default_rng(4), T)
BASE = pose_matrix(np.array([-0.66, 0.1, 0.9]), rotation([0, 0, 0.3]))
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def quaternions(poses):
    """(T, 4) x y z w of turns by less than half a circle."""
    turn = poses[:, :3, :3]
    w = np.sqrt(1 + np.trace(turn, axis1=1, axis2=2)) / 2
    skew = turn - turn.swapaxes(1, 2)
    return np.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0], 4 * w**2], axis=1) / (4 * w[:, None])


def written(root, images=(FRONT, WRIST), names=(), size=(H, W), **numbers):
    """One episode of pictures whose gray says the step and the camera; arrays by the last part of a name."""
    frames = {
        name: np.full((T, *size, 3), 40 * row, np.uint8) + np.arange(T, dtype=np.uint8)[:, None, None, None]
        for row, name in enumerate(images)
    }
    listed = [Feature(name, "image", (*size, 3)) for name in images]
    listed.append(Feature("action", "float64", (7,)))
    frames["action"] = np.ones((T, 7))
    for key, values in numbers.items():
        name = f"observation.{key.replace('__', '.')}"
        kind = "depth" if key.startswith("depth") else "float64"
        listed.append(Feature(name, kind, values.shape[1:], names if key == "state" and names else None))
        frames[name] = values
    writer = LeRobotWriter(root, 10, listed)
    writer.add_episode(frames, "push")
    writer.finalize()
    return root


def opened(root, **mapping):
    return LeRobotSource(root, FeatureMapping.from_dict({"image": FRONT, **mapping}))


def tiled(matrix):
    return np.tile(matrix, (T, 1, 1))


@pytest.fixture
def robot(tmp_path):
    """A calibration file with pictures twice as large as the dataset's."""
    large = Camera(np.diag([2.0, 2, 1]) @ K, 2 * H, 2 * W)
    cameras = {
        "front": CalibratedCamera(large, STANDING),
        "wrist": CalibratedCamera(large, hand_eye=HAND_EYE),
    }
    RobotCalibration(cameras).save(tmp_path / "robot.yaml")
    return tmp_path / "robot.yaml"


def test_cameras_of_a_real_dataset_by_name():
    top, wrist = "observation.images.top", WRIST
    stored = LeRobotDataset(TWO_CAMERAS).episode(1)
    state = {"feature": "observation.state", "indices": [6, 0, 1]}
    mapping = FeatureMapping.from_dict({"image": top, "cameras": {"wrist": wrist}, "state": state})
    source = LeRobotSource(TWO_CAMERAS, mapping)
    episode = source.episode(1)
    assert source.state_names == ("grip_l", "x", "y")
    np.testing.assert_array_equal(episode.state, stored.columns["observation.state"][:, [6, 0, 1]])
    (view,) = episode.other_views.values()
    np.testing.assert_array_equal(view.images([3, 1]), stored.frames(wrist, [3, 1]))
    np.testing.assert_array_equal(episode.images([2]), stored.frames(top, [2]))
    assert view.depth([0]) is None
    assert view.camera is None
    assert view.extrinsics is None
    assert episode.depth([0]) is not None


def test_without_lines_all_cameras_and_the_state_are_found_by_their_names():
    source = LeRobotSource(TWO_CAMERAS, FeatureMapping(image=WRIST))
    assert list(source.episode(0).other_views) == ["top"]
    assert source.episode(0).other_views["top"].depth([0]).shape == (1, 48, 64)
    assert source.state_names == ("x", "y", "z", "rx", "ry", "rz", "grip_l", "grip_r")
    assert source.episode(0).state.dtype == np.float64
    bare = LeRobotSource(
        TWO_CAMERAS, FeatureMapping.from_dict({"image": WRIST, "cameras": {}, "state": "none"})
    )
    assert (bare.episode(0).other_views, bare.state_names, bare.episode(0).state) == ({}, (), None)


def test_cameras_of_like_names_are_told_apart(tmp_path):
    images = ("observation.images.image", FRONT, "observation.left.hand", "observation.right.hand")
    views = opened(written(tmp_path / "d", images)).episode(0).other_views
    assert set(views) == set(images) - {FRONT}
    # The published model's first camera is called image.
    assert views["observation.images.image"].images([1])[0, 0, 0, 0] == 1


@settings(max_examples=15, deadline=None)
@given(
    cameras=st.lists(st.sampled_from(["wrist", "left", "top_2"]), unique=True, max_size=3),
    known=st.lists(st.booleans(), min_size=12, max_size=12),
    seed=st.integers(0, 99),
)
def test_what_is_written_of_each_camera_comes_back(tmp_path_factory, cameras, known, seed):
    rng = np.random.default_rng(seed)
    numbers, expected = {"state": rng.normal(size=(T, 3))}, {}
    for row, name in enumerate(cameras):
        has = known[3 * row : 3 * row + 3]
        focal = K + np.diag([row, row, 0])
        places = np.stack([looking_at([1.0, 0.1 * step + row, 0.7], [0.4, 0, 0.1]) for step in range(T)])
        depth = rng.uniform(0.2, 3, (T, H, W)).round(3).astype(np.float32)
        parts = (("intrinsics", tiled(focal)), ("extrinsics", places), ("depth", depth))
        expected[name] = [values if given else None for (_, values), given in zip(parts, has, strict=True)]
        numbers |= {
            f"{part}__{name}": values for (part, values), given in zip(parts, has, strict=True) if given
        }
    images = [FRONT, *(f"observation.images.{name}" for name in cameras)]
    root = written(tmp_path_factory.mktemp("views") / "d", images, **numbers)
    episode = opened(root).episode(0)
    assert list(episode.other_views) == cameras
    np.testing.assert_array_equal(episode.state, numbers["state"])
    for row, (name, (intrinsics, extrinsics, depth)) in enumerate(expected.items(), 1):
        view = episode.other_views[name]
        assert view.images([2, 0])[:, 0, 0, 0].tolist() == [40 * row + 2, 40 * row]
        if intrinsics is None:
            assert view.camera is None
        else:
            np.testing.assert_array_equal(view.camera.intrinsics, intrinsics[0])
        for found, stored in ((view.extrinsics, extrinsics), (view.depth(range(T)), depth)):
            if stored is None:
                assert found is None
            else:
                np.testing.assert_allclose(found, stored, atol=1e-6)


def test_numbers_of_the_usual_name_are_those_of_the_camera_without_its_own(tmp_path):
    places = {
        "extrinsics": tiled(STANDING),
        "intrinsics": tiled(K),
        "intrinsics__wrist": tiled(K + np.diag([4, 4, 0])),
    }
    root = written(tmp_path / "d", **places)
    episode = opened(root).episode(0)
    assert (episode.camera.intrinsics[0, 0], episode.other_views["wrist"].camera.intrinsics[0, 0]) == (20, 24)
    assert episode.other_views["wrist"].extrinsics is None
    # Looked through the other way round they are still whose they were.
    swapped = LeRobotSource(root, FeatureMapping(image=WRIST)).episode(0)
    assert (swapped.camera.intrinsics[0, 0], swapped.other_views["front"].camera.intrinsics[0, 0]) == (24, 20)


@pytest.mark.parametrize("further", [{}, {"cameras": {}}, {"cameras": {"other": FRONT}}])
def test_what_a_conversion_tells_of_its_main_camera_is_no_other_cameras(tmp_path, further):
    """A converted dataset whose wrist camera is not known, looked through the wrist."""
    main = "observation.images.main"
    root = written(tmp_path / "d", (main, WRIST, FRONT), intrinsics=tiled(K), extrinsics=tiled(STANDING))
    episode = LeRobotSource(root, FeatureMapping.from_dict({"image": WRIST, **further})).episode(0)
    assert (episode.camera, episode.extrinsics) == (None, None)
    assert all(view.camera is None for name, view in episode.other_views.items() if name != "main")
    through_main = LeRobotSource(root).episode(0)
    np.testing.assert_array_equal(through_main.camera.intrinsics, K)
    np.testing.assert_allclose(through_main.extrinsics[0], STANDING, atol=1e-6)


@pytest.mark.parametrize("gone", [[], [0], [T - 1], range(T)])
def test_a_camera_that_was_gone_for_a_while_is_missing_from_the_episode(tmp_path, gone):
    """Its pictures are black then, and nothing else says so."""
    there = np.ones((T, 1))
    there[list(gone)] = 0
    episode = opened(written(tmp_path / "d", present__wrist=there)).episode(0)
    assert list(episode.other_views) == ([] if gone else ["wrist"])
    assert len(episode.starts) == T


@pytest.mark.parametrize("there", [True, False])
def test_a_row_of_lerobots_batch_tells_of_its_first_step_and_has_a_chunk_of_actions(tmp_path, there):
    source = opened(written(tmp_path / "d", present__wrist=np.full((T, 1), float(there))))
    whole = source.dataset.episode(0)
    first = {name: values[:1] for name, values in whole.columns.items() if name.startswith("observation")}
    row = replace(whole, columns={**whole.columns, **first})
    episode = source.form.episode(row, "Row 0")
    assert list(episode.other_views) == (["wrist"] if there else [])
    assert len(episode.actions) == T


def test_a_calibration_file_tells_of_each_camera(tmp_path, robot):
    euler = np.stack([np.arctan2(GRIPPER[:, 2, 1], GRIPPER[:, 2, 2]), np.arcsin(-GRIPPER[:, 2, 0]),
                      np.arctan2(GRIPPER[:, 1, 0], GRIPPER[:, 0, 0])], axis=1)  # fmt: skip
    state = np.concatenate([np.ones((T, 1)), np.degrees(euler), 1000 * GRIPPER[:, :3, 3]], axis=1)
    root = written(tmp_path / "d", state=state)
    file = tmp_path / "mapping.yaml"
    file.write_text(
        f"image: {FRONT}\ncameras: {{wrist: {{image: {WRIST}}}}}\ncalibration: robot.yaml\n"
        "gripper_pose: {feature: observation.state, indices: [4, 5, 6, 1, 2, 3], meters: 0.001, "
        f"radians: {np.pi / 180}}}\n"
    )
    source = LeRobotSource(root, file)
    episode = source.episode(0)
    np.testing.assert_allclose(episode.extrinsics, tiled(STANDING), atol=1e-12)
    wrist = episode.other_views["wrist"]
    np.testing.assert_allclose(wrist.extrinsics, wrist_extrinsics(GRIPPER, HAND_EYE), atol=1e-9)
    for view in (episode, wrist):
        np.testing.assert_allclose(view.camera.scaled_to(H, W), K)
    # Lines of a camera's own come first.
    other = FeatureMapping.load(file).from_dict(
        {
            "image": FRONT,
            "calibration": str(robot),
            "extrinsics": "none",
            "cameras": {"wrist": {"image": WRIST, "extrinsics": {"matrix": STANDING.tolist()}}},
        }
    )
    episode = LeRobotSource(root, other).episode(0)
    assert episode.extrinsics is None
    np.testing.assert_allclose(episode.other_views["wrist"].extrinsics, tiled(STANDING), atol=1e-12)
    np.testing.assert_allclose(episode.camera.scaled_to(H, W), K)


def test_the_first_camera_is_found_by_its_feature_before_it_is_called_image(tmp_path):
    """A file that calls its main camera as policies do, looked through another one."""
    other = looking_at([0.3, -0.9, 0.6], [0.5, 0, 0.1])
    cameras = {
        "image": CalibratedCamera(Camera(K, H, W), STANDING),
        "side": CalibratedCamera(Camera(K, H, W), other),
    }
    RobotCalibration(cameras).save(tmp_path / "named.yaml")
    side, main = "observation.images.side", "observation.images.main"
    root = written(tmp_path / "d", (main, side))
    for image, place in ((side, other), (main, STANDING)):
        mapping = FeatureMapping.from_dict(
            {"image": image, "calibration": str(tmp_path / "named.yaml"), "cameras": {}}
        )
        np.testing.assert_allclose(LeRobotSource(root, mapping).episode(0).extrinsics[0], place, atol=1e-9)


def test_gripper_poses_of_other_notations_and_frames(tmp_path, robot):
    world = BASE @ np.stack(
        [pose_matrix(pose[:3, 3], rotation([0.1 * row, 0.4, -0.3])) for row, pose in enumerate(GRIPPER)]
    )
    wanted = wrist_extrinsics(inverse(BASE) @ world, HAND_EYE)
    root = written(tmp_path / "d", hand=np.concatenate([world[:, :3, 3], quaternions(world)], axis=1))
    pose = {"feature": "observation.hand", "rotation": "quaternion_xyzw", "base": BASE.tolist()}
    views = opened(root, calibration=str(robot), gripper_pose=pose).episode(0).other_views
    np.testing.assert_allclose(views["wrist"].extrinsics, wanted, atol=1e-9)


def test_mirrored_pictures_of_a_calibrated_camera(tmp_path, robot):
    calibration = RobotCalibration.load(robot)
    front = CalibratedCamera(calibration.camera("front").camera, STANDING, mirrored=True)
    calibration.with_camera("front", front).save(robot)
    episode = opened(written(tmp_path / "d"), cameras={}, calibration=str(robot)).episode(0)
    np.testing.assert_allclose(episode.extrinsics, tiled(mirror_extrinsics(STANDING)), atol=1e-12)


def test_depth_that_a_calibration_does_not_believe_is_not_measured(tmp_path, robot):
    calibration = RobotCalibration.load(robot)
    near = CalibratedCamera(calibration.camera("wrist").camera, hand_eye=HAND_EYE, depth_range=(0.1, 0.6))
    calibration.with_camera("wrist", near).save(robot)
    readings = np.full((T, H, W), 0.5, np.float32)
    readings[:, :2], readings[:, 2:4] = 0.05, 0.9
    root = written(tmp_path / "d", state=np.zeros((T, 6)), depth__wrist=readings, depth__front=readings)
    pose = {"feature": "observation.state", "rotation": "axis_angle"}
    episode = opened(root, calibration=str(robot), gripper_pose=pose).episode(0)
    np.testing.assert_allclose(episode.depth([1]), readings[:1], atol=1e-6)
    depth = episode.other_views["wrist"].depth([1])[0]
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth[:, 0], [0, 0, 0, 0, *[0.5] * 8], atol=1e-6)


def test_the_first_camera_may_be_the_only_one_that_stands_still(tmp_path, robot):
    images = ("observation.images.top", WRIST)
    root, lines = (
        written(tmp_path / "d", images),
        {"image": images[0], "calibration": str(robot), "cameras": {}},
    )
    np.testing.assert_allclose(opened(root, **lines).episode(0).extrinsics, tiled(STANDING), atol=1e-12)
    calibration = RobotCalibration.load(robot)
    calibration.with_camera("side", calibration.camera("front")).save(robot)
    with pytest.raises(InputError, match="has no camera 'image' or 'top'; choose from front, wrist, side"):
        opened(root, **lines)
    # One that is another's is not taken.
    root = written(tmp_path / "e", (*images, "observation.images.side"))
    views = opened(root, **(lines | {"cameras": {"side": "observation.images.side"}})).episode(0)
    np.testing.assert_allclose(views.extrinsics, tiled(STANDING), atol=1e-12)


def test_only_files_of_cameras_that_are_wanted_have_to_be_there(tmp_path):
    root = Path(shutil.copytree(TWO_CAMERAS, tmp_path / "d"))
    shutil.rmtree(root / "videos" / "observation.images.top_depth")
    shutil.rmtree(root / "videos" / "observation.images.top")
    mapping = FeatureMapping(image=WRIST)
    source = pickle.loads(pickle.dumps(LeRobotSource(root, mapping, cameras=())))
    assert source.episode(0).images([1]).shape == (1, 48, 64, 3)
    assert source.episode(0).other_views == {}
    for cameras in (None, ("top",)):
        with pytest.raises(CheckpointError, match=r"observation\.images\.top/.*\.mp4 is missing"):
            LeRobotSource(root, mapping, cameras=cameras)


def test_the_fingerprint_tells_other_lines_and_another_calibration(tmp_path, robot):
    root = written(tmp_path / "d", state=np.zeros((T, 2)))
    side = {"image": WRIST, "intrinsics": "none", "extrinsics": "none"}
    lines = {"cameras": {"side": side}, "state": {"feature": "observation.state", "indices": [1]}}
    lines |= {"calibration": str(robot), "image": FRONT}
    seen = {opened(root).contents}
    seen |= {opened(root, **{name: lines[name]}).contents for name in ("cameras", "state")}
    before = opened(root, **lines).contents
    assert before not in seen
    assert len(seen) == 3
    moved = shutil.copy(robot, tmp_path / "elsewhere.yaml")
    assert opened(root, **(lines | {"calibration": str(moved)})).contents == before
    calibration = RobotCalibration.load(robot)
    place = STANDING.copy()
    place[0, 3] += 1e-10
    nearer = CalibratedCamera(calibration.camera("front").camera, place)
    calibration.with_camera("front", nearer).save(robot)
    assert opened(root, **lines).contents != before


STATE = {"feature": "observation.state", "rotation": "axis_angle", "indices": [0, 1, 2, 3, 4, 5]}


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ({"cameras": {"wrist": "observation.images.hand"}}, r"no camera 'observation.images.hand' but .*wrist; correct "
         r"the mapping's line 'cameras: \{wrist: \{image: …\}\}'"),
        ({"cameras": {"wrist": {"depth": WRIST}}}, "cameras.wrist lacks"),
        ({"cameras": {"wrist": {"image": WRIST, "depht": "x"}}}, r"unknown key 'cameras.wrist.depht'.*depth"),
        ({"cameras": [WRIST]}, "cameras needs lines of the form 'name: …'"),
        ({"cameras": {"wrist": {"image": WRIST, "depth": "observation.depth.hand"}}},
         r"no depth 'observation.depth.hand'; correct the mapping's line 'cameras: \{wrist: \{depth: …\}\}'"),
        ({"cameras": {"wrist": {"image": WRIST, "intrinsics": "action"}}}, "'action' of 3x3 numbers"),
        ({"cameras": {"wrist": {"image": WRIST, "extrinsics": "action"}}}, "'action' of 4x4 numbers"),
        ({"cameras": {"wrist": {"image": WRIST, "extrinsics": {"matrix": (2 * STANDING).tolist()}}}}, "last row"),
        ({"cameras": {"wrist": FRONT}}, "the cameras 'image' and 'wrist' both look through"),
        ({"cameras": {"image": WRIST}}, "the camera 'image' is the first one"),
        ({"image": WRIST, "cameras": {"wrist": FRONT}}, "while 'image' looks through 'observation.images.wrist'; swap"),
        ({"state": "observation.joints"}, "no feature of numbers 'observation.joints'.*takes one of .*, or none"),
        ({"state": {"feature": "observation.state", "indices": [1, 7]}}, "has the indices 0 to 6, not 7"),
        ({"state": {"feature": "observation.state", "indices": [1, 1]}}, "state indices name a number twice: 1, 1"),
        ({"state": {"indices": [1]}}, "state lacks"),
        ({"calibration": "nowhere.yaml"}, "nowhere.yaml does not exist; name the calibration's YAML file"),
        ({"calibration": "ROBOT", "cameras": {"wrist": WRIST}},
         "so its place follows from the gripper's pose; say where that is.*gripper_pose"),
        ({"calibration": "ROBOT", "cameras": {"hand": WRIST}}, "gripper carries the camera 'hand'"),
        ({"calibration": "ROBOT", "gripper_pose": {"feature": "observation.state"}}, "holds 7 numbers, not the 6"),
        ({"gripper_pose": STATE | {"indices": [0, 1]}}, "gripper_pose indices name 2 numbers; .* there are 6"),
        ({"gripper_pose": STATE | {"indices": [0, 1, 2, 3, 4, 9]}}, "indices 0 to 6, not 9"),
        ({"gripper_pose": STATE | {"feature": "observation.hand"}}, "'gripper_pose: {feature: …}' takes one of"),
        ({"gripper_pose": STATE | {"rotation": "none", "indices": []}}, "gripper_pose needs a rotation"),
        ({"gripper_pose": STATE | {"meters": 0}}, "gripper_pose meters must be positive"),
        ({"gripper_pose": STATE | {"base": (2 * BASE).tolist()}}, "last row 0 0 0 1"),
    ],
)  # fmt: skip
def test_lines_that_cannot_be_are_one_sentence(tmp_path, robot, lines, sentence):
    root = written(tmp_path / "d", state=np.zeros((T, 7)))
    if lines.get("calibration") == "ROBOT":
        lines = lines | {"calibration": str(robot)}
    with pytest.raises(InputError, match=sentence) as raised:
        opened(root, **lines)
    assert str(raised.value).endswith((".", "?"))


def test_a_calibration_without_the_camera_or_for_other_pictures(tmp_path, robot):
    root = written(tmp_path / "d", (FRONT, "observation.images.side"), size=(H, H))
    with pytest.raises(InputError, match=r"'observation\.images\.front': .* has another aspect"):
        opened(root, calibration=str(robot))
    named = {"side": "observation.images.side"}
    root = written(tmp_path / "e", (FRONT, "observation.images.side"))
    with pytest.raises(
        InputError, match=r"has no camera 'side'; choose from front, wrist\. Name it so, or give"
    ):
        opened(root, calibration=str(robot), cameras=named)
    # Nobody asked for this one by a line.
    assert opened(root, calibration=str(robot)).episode(0).other_views["side"].extrinsics is None
    (tmp_path / "bad.yaml").write_text(robot.read_text().replace("K:", "k:"))
    with pytest.raises(InputError, match=r"In .*bad\.yaml: unknown key 'cameras\.front\.k'"):
        opened(root, calibration=str(tmp_path / "bad.yaml"))


def test_stored_numbers_that_cannot_be_name_episode_and_line(tmp_path, robot):
    state = np.concatenate([GRIPPER[:, :3, 3], np.zeros((T, 4))], axis=1)
    gripper = {"feature": "observation.state", "indices": list(range(6)), "rotation": "axis_angle"}
    broken = state.copy()
    broken[3, 2] = np.nan
    places = tiled(STANDING)
    places[2, :3, 3] *= 1000
    root = written(
        tmp_path / "d",
        state=state,
        intrinsics__wrist=tiled(np.diag([5000, 5000, 1.0])),
        extrinsics__wrist=places,
        depth__wrist=np.full((T, H, W), 0.5, np.float32),
    )
    info = root / "meta" / "info.json"
    info.write_text(info.read_text().replace('"depth_unit": "mm"', '"depth_unit": "m"'))
    episode = opened(root).episode(0)
    wrist = episode.other_views["wrist"]
    with pytest.raises(
        CheckpointError, match=r"d, episode 0: .*not millimeters.* 'cameras: \{wrist: \{extrinsics: …"
    ):
        _ = wrist.extrinsics
    with pytest.raises(CheckpointError, match=r"episode 0, 'observation\.intrinsics\.wrist': A focal length"):
        _ = wrist.camera
    with pytest.raises(CheckpointError, match=r"Episode 0, 'observation\.depth\.wrist': .*millimeters"):
        wrist.depth([1])
    root = written(tmp_path / "e", state=state)
    (file,) = (root / "data").rglob("*.parquet")
    table = pq.read_table(file)
    column = table.schema.get_field_index("observation.state")
    pq.write_table(table.set_column(column, "observation.state", pa.array(broken.tolist())), file)
    episode = opened(root, calibration=str(robot), gripper_pose=gripper).episode(0)
    with pytest.raises(CheckpointError, match=r"e, episode 0: The state of step 3 is not finite; leave"):
        _ = episode.state
    with pytest.raises(CheckpointError, match=r"e, episode 0: A gripper's pose must not contain NaN"):
        _ = episode.other_views["wrist"].extrinsics
    turned = {"feature": "observation.state", "rotation": "quaternion_xyzw"}
    episode = opened(
        written(tmp_path / "f", state=state), calibration=str(robot), gripper_pose=turned
    ).episode(0)
    with pytest.raises(CheckpointError, match="quaternion is 0 at some step"):
        _ = episode.other_views["wrist"].extrinsics


@pytest.mark.parametrize(
    ("height", "width", "doubts"),
    [
        (H, W, ()),
        (2 * H, 2 * W, ()),
        (
            32,
            32,
            (
                "K of the camera 'image' is for pictures of 32 x 32 pixels, and these have 16 x 12, another aspect; it "
                "is stretched to them, which is wrong where they were cropped.",
            ),
        ),
    ],
)
def test_a_k_for_pictures_of_another_aspect_is_doubted(tmp_path, height, width, doubts):
    K_of_its_own = [[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]
    source = opened(
        written(tmp_path / "data"), intrinsics={"K": K_of_its_own, "height": height, "width": width}
    )
    assert source.doubts == doubts

"""Calibrations that lie beside an RLDS dataset: DROID's published files, a robot's own, and what cannot be."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from cameras import looking_at, random_gripper_poses
from rlds_writer import write_steps

from spatialvla.data.oxe.source import OXESource
from spatialvla.data.oxe.spec_file import load_spec
from spatialvla.data.oxe.specs import SPECS
from spatialvla.data.rlds.tfrecord import BadRecord
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import pose_matrix, project
from spatialvla.geometry.known_cameras import BRIDGE
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.geometry.rotations import euler

T = 4
SAMPLE = Path(__file__).parent / "rlds" / "bridge_orig"
EXT_1, EXT_2 = looking_at([0.9, 0.7, 0.6], [0.4, 0, 0.2]), looking_at([0.2, -0.8, 0.5], [0.5, 0, 0.1])
EPISODES = [f"ILIAD/success/2023-04-2{day}/Fri_Apr_21_13:39:1{day}_2023" for day in range(4)]
IDS = [f"ILIAD+j807b3f8+2023-04-2{day}-13h-39m-1{day}s" for day in range(4)]
INTRINSICS = [731.5, 640.3, 730.9, 361.2]  # fx, cx, fy, cy
GRIPPER = np.array([[0.45 + 0.01 * t, 0.02, 0.2, 3.1, -0.1, 0.3] for t in range(T)])


def six(pose):
    return [*pose[:3, 3].tolist(), *euler(pose[None, :3, :3])[0].tolist()]


def published():
    """The files' contents: the first episode has both cameras, the second the first one alone, the third none."""
    serials = {"ext1_cam_serial": "111", "ext2_cam_serial": "222", "wrist_cam_serial": "333"}
    return {
        "episode_id_to_path.json": dict(zip(IDS, EPISODES, strict=True)),
        "camera_serials.json": dict.fromkeys(IDS, serials),
        "intrinsics.json": {
            IDS[0]: {
                serial: {"cameraMatrix": INTRINSICS, "distCoeffs": [0.0] * 5} for serial in serials.values()
            },
            IDS[1]: {"111": INTRINSICS},
        },
        "cam2base_extrinsic_superset.json": {IDS[0]: {"111": six(EXT_1), "222": six(EXT_2), "quality": 0.9}},
        "cam2base_extrinsics.json": {IDS[0]: {"111": [9.0] * 6}, IDS[1]: {"111": six(EXT_1), "iou": 0.8}},
    }


FULL = "/nfs/kun2/datasets/r2d2/r2d2-data-full/"


def droid(tmp_path, contents=None, recorded=EPISODES, before=FULL):
    """A source of four episodes, whose spec file names the folder of these files."""
    contents = published() if contents is None else contents
    folder = tmp_path / "calibrations"
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    spec = tmp_path / "droid.yaml"
    spec.write_text("like: droid\ncalibration: calibrations\n")
    steps = {
        "action_dict/cartesian_velocity": np.ones((T, 6)),
        "action_dict/gripper_position": np.zeros((T, 1)),
        "observation/cartesian_position": GRIPPER,
        "observation/gripper_position": np.zeros((T, 1)),
        "language_instruction": np.array(["go"] * T),
    }
    paths = [f"{before}{path}/trajectory.h5" for path in recorded]
    told = {"episode_metadata/file_path": paths} if recorded else {}
    root = write_steps(
        tmp_path / "droid", SPECS["droid"], steps, size=(18, 32), kept=(True,) * 4, of_episodes=told
    )
    return OXESource(root, str(spec), cache=tmp_path / "cache")


def test_droid_s_cameras_stand_where_its_authors_found_them(tmp_path):
    source = droid(tmp_path)
    episode = source.episode(0)
    first, second, wrist = (episode, *episode.other_views.values())
    K = np.array([[731.5, 0, 640.3], [0, 730.9, 361.2], [0, 0, 1]])
    for view, pose in ((first, EXT_1), (second, EXT_2)):
        assert view.extrinsics.shape == (T, 4, 4)
        np.testing.assert_allclose(view.extrinsics[2], pose, atol=1e-12)
        np.testing.assert_array_equal(view.camera.intrinsics, K)
        assert (view.camera.height, view.camera.width) == (720, 1280)
    assert (wrist.extrinsics, wrist.camera.intrinsics[0, 2]) == (None, 640.3)
    # Each sees the gripper where the published example projects it: K [R | t]⁻¹ p, scaled to the picture's size.
    state = episode.state
    for view, pose in ((first, EXT_1), (second, EXT_2)):
        expected = K @ (np.linalg.inv(pose) @ [*GRIPPER[1, :3], 1])[:3]
        pixels, _ = project(state[1:2, :3], view.camera.scaled_to(18, 32), view.extrinsics[1])
        np.testing.assert_allclose(pixels[0], expected[:2] / expected[2] * [32 / 1280, 18 / 720], atol=1e-9)


def test_droid_s_calibrations_are_of_the_camera_that_an_episode_is_seen_from(tmp_path):
    source = droid(tmp_path)
    odd = source.episode(1)  # seen from the second one, of which nothing is known
    assert (odd.camera, odd.extrinsics) == (None, None)
    secondary = odd.other_views["secondary"]
    np.testing.assert_allclose(secondary.extrinsics[0], EXT_1, atol=1e-12)
    assert secondary.camera.intrinsics[0, 0] == 731.5
    unknown = source.episode(2)
    views = (unknown, *unknown.other_views.values())
    assert [(view.camera, view.extrinsics) for view in views] == [(None, None)] * 3
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.episode(0).extrinsics, source.episode(0).extrinsics)
    assert again.fingerprint == source.fingerprint


def test_other_calibrations_are_other_contents(tmp_path):
    before = droid(tmp_path)
    contents, fingerprint = before.contents, before.fingerprint
    plain = OXESource(before.dataset.storage.root, "droid", cache=tmp_path / "cache")
    assert plain.contents != contents
    assert plain.episode(0).extrinsics is None
    file = tmp_path / "calibrations" / "intrinsics.json"
    file.write_text(file.read_text() + " ")
    again = OXESource(before.dataset.storage.root, before.spec, cache=tmp_path / "cache")
    assert again.contents != contents
    assert again.fingerprint != fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "episode_id_to_path.json",
            r"^\S+calibrations lacks episode_id_to_path\.json; put the files of the dataset KarlP/droid",
        ),
        ("intrinsics.json", r"lacks intrinsics\.json"),
        ("cam2base", r"lacks cam2base_extrinsic_superset\.json or cam2base_extrinsics\.json"),
    ],
)
def test_droid_files_that_are_missing(tmp_path, name, message):
    contents = {file: content for file, content in published().items() if not file.startswith(name)}
    with pytest.raises(InputError, match=message):
        droid(tmp_path, contents)


def test_one_of_the_two_files_of_poses_is_enough(tmp_path):
    contents = published()
    del contents["cam2base_extrinsic_superset.json"]
    source = droid(tmp_path / "a", contents)
    np.testing.assert_allclose(source.episode(1).other_views["secondary"].extrinsics[0], EXT_1, atol=1e-12)


@pytest.mark.parametrize(
    ("file", "entry", "message"),
    [
        ("superset", [1.0, np.nan, 0, 0, 0, 0], "must not contain NaN or infinity"),
        (
            "superset",
            [900.0, 700, 600, 0, 0, 0],
            "m away from the robot's base, .* pass meters, not millimeters",
        ),
        ("superset", [1.0, 2.0], "must not contain NaN or infinity"),
        ("intrinsics", {"cameraMatrix": [0.0, 1, 1, 1]}, "focal lengths must be positive"),
        ("intrinsics", ["a", "b", "c", "d"], "contain NaN or infinity"),
    ],
)
def test_droid_entries_that_can_be_of_no_camera(tmp_path, file, entry, message):
    contents = published()
    name = next(name for name in contents if file in name)
    contents[name][IDS[0]]["111"] = entry
    episode = droid(tmp_path, contents).episode(0)
    assert len(episode.images([0])) == 1, "what does not need the calibration is read all the same"
    with pytest.raises(
        CheckpointError, match=rf"{name}.* of observation/exterior_image_1_left in {EPISODES[0]}.*{message}"
    ):
        _ = (episode.camera, episode.extrinsics)


@pytest.mark.parametrize("before", ["/data/r2d2-data/", "", "/mnt/r2d2-data-full/old/r2d2-data-full/"])
def test_wherever_droid_s_episodes_were_recorded(tmp_path, before):
    source = droid(tmp_path, recorded=EPISODES, before=before)
    np.testing.assert_allclose(source.episode(0).extrinsics[0], EXT_1, atol=1e-12)


def test_files_that_do_not_tell_droid_s_episodes_apart(tmp_path):
    with pytest.raises(
        InputError, match="droid has no 'episode_metadata/file_path', which tells the episodes"
    ):
        droid(tmp_path, recorded=())


STANDING = looking_at([-0.1, -0.2, 0.5], [0.35, 0, 0.05])
HAND_EYE = pose_matrix(np.array([0.0, 0.05, -0.1]), np.diag([-1.0, -1.0, 1.0]))


def described(tmp_path, text, **cameras):
    RobotCalibration(cameras).save(tmp_path / "robot.yaml")
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return OXESource(SAMPLE, str(path), cache=tmp_path / "cache")


def square(size=256):
    return Camera(np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]]), size, size)


BRIDGE_LINES = "like: bridge_orig\ncalibration: robot.yaml\n"
POSE_LINE = "gripper_pose: {feature: observation/state, indices: [0, 1, 2, 3, 4, 5]}\n"


def test_a_robot_s_calibration_tells_of_its_cameras(tmp_path):
    front, wrist = CalibratedCamera(square(512), STANDING), CalibratedCamera(square(), hand_eye=HAND_EYE)
    cameras = "cameras: {hand: observation/image_2, wrist: none, secondary: none}"
    source = described(tmp_path, BRIDGE_LINES + POSE_LINE + cameras, image_0=front, hand=wrist, third=wrist)
    episode = source.episode(1)
    assert list(episode.other_views) == ["hand"]
    np.testing.assert_array_equal(episode.extrinsics[1], STANDING)
    assert (episode.camera.width, episode.camera.intrinsics[0, 0]) == (256, 256)
    carried = episode.other_views["hand"]
    x, y, z, roll, pitch, yaw = episode.state[2, :6]
    turns = [
        np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]),
        np.array([[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]]),
        np.array([[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]]),
    ]
    gripper = pose_matrix(np.array([x, y, z]), turns[0] @ turns[1] @ turns[2])
    np.testing.assert_allclose(carried.extrinsics[2], gripper @ HAND_EYE, atol=1e-6)
    # Those that nobody named may be unknown.
    beside = described(tmp_path, BRIDGE_LINES, image=front).episode(1).other_views
    assert all(view.extrinsics is None for view in beside.values())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            BRIDGE_LINES,
            "a camera 'wrist' that the gripper carries, .* with the spec's line 'gripper_pose",
        ),
        (
            BRIDGE_LINES + POSE_LINE + "cameras: {top: observation/image_2}",
            r"has the camera 'secondary', and .*robot\.yaml has none of this name or 'image_1'",
        ),
        (
            BRIDGE_LINES + "gripper_pose: {feature: observation/pose}",
            "there is no feature of numbers 'observation/pose'",
        ),
        (
            BRIDGE_LINES + "gripper_pose: {feature: observation/state}",
            "holds 7 numbers, not the 6 of position",
        ),
        (
            "like: bridge_orig\ncalibration: other.yaml",
            r"^\S+other\.yaml does not exist; name the calibration's YAML file",
        ),
    ],
)
def test_robot_calibrations_that_do_not_fit(tmp_path, lines, message):
    front, wrist = CalibratedCamera(square(), STANDING), CalibratedCamera(square(), hand_eye=HAND_EYE)
    with pytest.raises(InputError, match=message):
        described(tmp_path, lines, image=front, wrist=wrist)


def test_a_calibration_for_another_aspect_or_of_other_cameras(tmp_path):
    with pytest.raises(
        InputError,
        match=r"256x256 under 'observation/image_0': .* 640 x 480 pixels, .* another aspect",
    ):
        described(tmp_path, BRIDGE_LINES, image=CalibratedCamera(BRIDGE, STANDING))
    with pytest.raises(InputError, match=r"has the camera 'image', and .* none of this name or 'image_0'"):
        described(tmp_path, BRIDGE_LINES, top=CalibratedCamera(square(), STANDING))


def test_gripper_poses_that_are_none(tmp_path):
    """A position in millimeters is seen where it is used."""
    wrist = CalibratedCamera(square(), hand_eye=HAND_EYE)
    poses = random_gripper_poses(np.random.default_rng(0), T)
    turns = np.concatenate([1000 * poses[:, :3, 3], euler(poses[:, :3, :3])], axis=1, dtype=np.float32)
    RobotCalibration({"image": CalibratedCamera(square(8), STANDING), "hand": wrist}).save(
        tmp_path / "robot.yaml"
    )
    (tmp_path / "spec.yaml").write_text(
        "like: dobbe\nimage: observation/image\ncalibration: robot.yaml\ncameras: {hand: observation/hand}\n"
        "gripper_pose: {feature: observation/pose}\nstate: {feature: observation/pose, indices: [2, 0]}\n"
    )
    spec = load_spec(tmp_path / "spec.yaml")
    steps = {
        "action": np.ones((T, 7), np.float32),
        "observation/pose": turns,
        "language_instruction": np.array(["go"] * T),
    }
    root = write_steps(tmp_path / "mine", spec, steps, size=(8, 8))
    source = OXESource(root, spec, cache=tmp_path / "cache")
    episode = source.episode(0)
    assert source.state_names == ("pose_2", "pose_0")
    np.testing.assert_array_equal(episode.state, turns[:, [2, 0]])
    with pytest.raises(
        BadRecord, match=r"offset 0: A gripper's pose cannot lead .* pass meters, not millimeters"
    ):
        _ = episode.other_views["hand"].extrinsics


@pytest.mark.parametrize("stands", [True, False])
def test_depth_that_a_robot_s_calibration_does_not_believe_is_not_measured(tmp_path, stands):
    camera = {"extrinsics": STANDING} if stands else {"hand_eye": HAND_EYE}
    known = CalibratedCamera(square(8), **camera, depth_range=(0.2, 2.0))
    RobotCalibration({"image": known}).save(tmp_path / "robot.yaml")
    (tmp_path / "spec.yaml").write_text(
        "like: dobbe\nimage: observation/image\ncalibration: robot.yaml\n"
        "depth: {feature: observation/meters, meters: 1}\ngripper_pose: {feature: observation/pose}\n"
    )
    spec = load_spec(tmp_path / "spec.yaml")
    meters = np.full((T, 8, 8), 1.5, np.float32)
    meters[1, 0, :3] = 0.1, 2.0, 5.0
    steps = {
        "action": np.ones((T, 7), np.float32),
        "observation/pose": np.zeros((T, 6), np.float32),
        "observation/meters": meters,
        "language_instruction": np.array(["go"] * T),
    }
    root = write_steps(tmp_path / "mine", spec, steps, size=(8, 8))
    episode = OXESource(root, spec, cache=tmp_path / "cache").episode(0)
    (depth,) = episode.depth([1 - episode.first_step])
    np.testing.assert_array_equal(depth[0, :4], np.float32([0, 2, 0, 1.5]))

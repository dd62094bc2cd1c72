"""A calibration file fills in what observations come without, by the policy's names for the cameras."""

import logging

import numpy as np
import pytest
from cameras import CAMERA, looking_at, random_gripper_poses
from PIL import Image
from PIL.ExifTags import Base

from spatialvla.calibration.policy_calibration import PolicyCalibration
from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.extrinsics import pose_matrix
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.types import CameraImage, Observation

STANDS = looking_at([1.2, 0.3, 0.7], [0.5, 0, 0.1])
HAND_EYE = pose_matrix(np.array([0.0, 0.05, -0.1]), np.eye(3))
ROBOT = RobotCalibration(
    {
        "front": CalibratedCamera(CAMERA, STANDS, depth_range=(0.2, 2.0)),
        "wrist": CalibratedCamera(CAMERA, hand_eye=HAND_EYE),
    }
)
PICTURE = np.zeros((240, 320, 3), np.uint8)


def filling(cameras=("front", "wrist"), robot=ROBOT, **more) -> PolicyCalibration:
    return PolicyCalibration(robot, cameras, **{"needs_extrinsics": True, **more})


def test_a_standing_camera_gets_its_k_for_the_pictures_size_and_its_place():
    for picture in (PICTURE, Image.fromarray(PICTURE)):
        seen = filling().filled("front", CameraImage(picture))
        np.testing.assert_allclose(seen.intrinsics, np.diag([0.5, 0.5, 1]) @ CAMERA.intrinsics)
        np.testing.assert_array_equal(seen.extrinsics, STANDS)


def test_a_picture_counts_as_it_is_after_its_exif_turned_it():
    stored = Image.new("RGB", (240, 320))
    stored.getexif()[Base.Orientation] = 6
    seen = filling().filled("front", CameraImage(stored))
    np.testing.assert_allclose(seen.intrinsics, np.diag([0.5, 0.5, 1]) @ CAMERA.intrinsics)


def test_a_camera_in_the_hand_goes_with_the_gripper():
    (pose,) = random_gripper_poses(np.random.default_rng(0), 1)
    seen = filling().filled("wrist", CameraImage(PICTURE), pose)
    np.testing.assert_allclose(seen.extrinsics, pose @ HAND_EYE)
    with pytest.raises(InputError, match=r"Camera wrist: the gripper carries it.*pose, which is missing"):
        filling().filled("wrist", CameraImage(PICTURE))
    in_its_own_frame = filling(needs_extrinsics=False).filled("wrist", CameraImage(PICTURE))
    assert in_its_own_frame.extrinsics is None
    assert in_its_own_frame.intrinsics is not None


def test_what_comes_with_a_picture_is_kept():
    K, place = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]), looking_at([1, 0, 1], [0.5, 0, 0])
    seen = filling().filled("front", CameraImage(PICTURE, K, extrinsics=place))
    np.testing.assert_array_equal(seen.intrinsics, K)
    np.testing.assert_array_equal(seen.extrinsics, place)
    square = CameraImage(np.zeros((99, 99, 3), np.uint8), K, extrinsics=place)
    assert filling().filled("front", square).intrinsics is K, "the file's K is not looked at"


def test_a_picture_of_another_aspect_is_refused_by_name():
    with pytest.raises(InputError, match=r"Camera front: .*640 x 480 pixels, and 99 x 99 has another aspect"):
        filling().filled("front", CameraImage(np.zeros((99, 99, 3), np.uint8)))


def test_depth_out_of_range_is_not_measured():
    depth = np.array([[0.1, 0.3], [1.9, 5.0]], np.float32)
    seen = filling().filled("front", CameraImage(PICTURE, depth=depth))
    np.testing.assert_array_equal(seen.depth, np.float32([[0, 0.3], [1.9, 0]]))
    with pytest.raises(InputError, match=r"Camera front: no depth lies within 0\.2 to 2 m.*pass meters"):
        filling().filled("front", CameraImage(PICTURE, depth=1000 * depth))


def test_mirrored_pictures_are_as_the_file_says():
    mirrored = RobotCalibration({"front": CalibratedCamera(CAMERA, STANDS, mirrored=True)})
    assert filling(("front",), mirrored).filled("front", CameraImage(PICTURE)).mirrored
    with pytest.raises(InputError, match="said to be mirrored, and the calibration's is not"):
        filling().filled("front", CameraImage(PICTURE, mirrored=True))


def test_the_only_standing_camera_is_the_first_whatever_it_is_called(caplog):
    with caplog.at_level(logging.INFO):
        calibration = filling(("image", "wrist"))
    assert "The policy's camera image is the calibration's front." in caplog.messages
    assert list(calibration.cameras) == ["image", "wrist"]
    assert calibration.cameras["image"] is ROBOT.cameras["front"]
    side = ROBOT.with_camera("side", CalibratedCamera(CAMERA, STANDS))
    assert list(filling(("image", "wrist"), side).cameras) == ["wrist"], "one of two is not guessed"
    assert list(filling(("image", "front"), ROBOT).cameras) == ["front"], (
        "nor what has a name of the policy's"
    )
    assert filling(("image",), side, called={"image": "side"}).cameras["image"] is side.cameras["side"]


def test_a_file_without_the_policys_cameras_is_refused():
    with pytest.raises(
        InputError, match=r"has the cameras front, wrist, side, and the policy looks through left"
    ):
        filling(("left",), ROBOT.with_camera("side", ROBOT.cameras["front"]))
    with pytest.raises(InputError, match="no camera 'frnt'; did you mean"):
        filling(("image",), called={"image": "frnt"})


def test_an_observation_is_filled_whole():
    seen = Observation(PICTURE, "pick", images={"wrist": CameraImage(PICTURE)}, state=np.arange(3.0))
    (pose,) = random_gripper_poses(np.random.default_rng(0), 1)
    filled = filling().observation(seen, "front", pose)
    assert (filled.instruction, filled.state) == ("pick", seen.state)
    np.testing.assert_array_equal(filled.extrinsics, STANDS)
    np.testing.assert_allclose(filled.images["wrist"].extrinsics, pose @ HAND_EYE)

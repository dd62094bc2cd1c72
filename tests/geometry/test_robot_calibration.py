"""The calibration file: read strictly, written so that it reads back the same."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from cameras import CAMERA, looking_at

from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.known_cameras import LIBERO_WRIST
from spatialvla.geometry.robot_calibration import RobotCalibration

FRONT = CalibratedCamera(CAMERA, looking_at([1.3, 0.2, 0.7], [0.4, 0, 0.1]), depth_range=(0.2, 3.0))
ROBOT = RobotCalibration({"front": FRONT, "wrist": LIBERO_WRIST})


@pytest.fixture
def file(tmp_path):
    ROBOT.save(tmp_path / "robot.yaml")
    return tmp_path / "robot.yaml"


def rewritten(file, change):
    """The file with its entries changed."""
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))
    return file


def same(first, second):
    for name in ("extrinsics", "hand_eye"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    np.testing.assert_array_equal(first.camera.intrinsics, second.camera.intrinsics)
    assert (first.camera.height, first.camera.width) == (second.camera.height, second.camera.width)
    assert (first.depth_range, first.mirrored) == (second.depth_range, second.mirrored)
    return True


def test_a_file_reads_back_to_the_last_bit(file):
    found = RobotCalibration.load(file)
    assert list(found.cameras) == ["front", "wrist"]
    assert all(same(found.camera(name), ROBOT.camera(name)) for name in ROBOT.cameras)
    before = file.read_text()
    found.save(file)
    assert file.read_text() == before
    assert max(map(len, before.splitlines())) <= 120


def test_a_camera_is_added_beside_the_others(file):
    RobotCalibration.load(file).with_camera("side", replace(FRONT, depth_range=None)).save(file)
    found = RobotCalibration.load(file)
    assert list(found.cameras) == ["front", "wrist", "side"]
    assert same(found.camera("wrist"), LIBERO_WRIST)


def test_an_unknown_camera_is_answered_with_the_closest(file):
    with pytest.raises(InputError, match=r"no camera 'frnt'; did you mean front\?"):
        ROBOT.camera("frnt")


def on_front(**entries):
    return lambda content: content["cameras"]["front"].update(entries)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (on_front(extrinsic=[[1]]), "'cameras.front.extrinsic'; the closest are extrinsics"),
        (lambda c: c.update(camera={}), "unknown key 'camera'; the closest are cameras"),
        (lambda c: c["cameras"]["front"].pop("K"), "cameras.front lacks .*'K'"),
        (lambda c: c["cameras"].clear(), "at least one camera"),
        (lambda c: c.clear(), "lacks .*'cameras'"),
        (lambda c: c.update(cameras=[1]), "cameras is .* no dict"),
        (lambda c: c["cameras"].update(front=3), "cameras.front needs lines of the form 'key: value'"),
        (on_front(height="480"), "cameras.front.height is '480', which is no int"),
        (on_front(K=[[600, 0, 320], [0, 600], [0, 0, 1]]), "cameras.front: K is no matrix"),
        (on_front(K=[[1, 0, 320], [0, 600, 240], [0, 0, 1]]), "cameras.front: A focal length of fx = 1"),
        (on_front(extrinsics=[[1, 0, 0, 0]] * 4), "cameras.front: Extrinsics must have"),
        (on_front(extrinsics=None), "cameras.front: .* give one of the two"),
        (on_front(depth_range=[0.1]), "nearest and the farthest distance, not 1"),
        (on_front(depth_range=[200, 3000]), "cameras.front: A depth range of 200 to 3000 cannot be"),
        (on_front(mirrored="yes please"), "mirrored is 'yes please'"),
    ],
)
def test_files_that_cannot_be_used(file, change, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        RobotCalibration.load(rewritten(file, change))
    assert str(refused.value).startswith(f"In {file}: ")


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="does not exist; name the calibration's YAML file"):
        RobotCalibration.load(tmp_path / "nothing.yaml")
    (tmp_path / "broken.yaml").write_text("cameras: [")
    with pytest.raises(InputError, match="no readable YAML"):
        RobotCalibration.load(tmp_path / "broken.yaml")

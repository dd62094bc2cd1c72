import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cameras import looking_at

from rrd import Rrd
from spatialvla.actions.units import LIBERO, UNKNOWN, ActionUnits
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera, mirror_intrinsics
from spatialvla.geometry.extrinsics import project, transform
from spatialvla.types import ActionChunk, CameraImage, Uncertainty
from spatialvla.viz.rerun.destination import Destination
from spatialvla.viz.rerun.episode import EpisodeRecording
from spatialvla.viz.rerun.recordings import Recordings
from spatialvla.viz.rerun.rig import Rig

K = np.array([[40.0, 0, 30], [0, 44, 20], [0, 0, 1]])
HEIGHT, WIDTH = 48, 64
RED = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
RED[8:24, 40:56] = 255, 0, 0
GRIPPER = np.array([0.4, -0.1, 0.3])
ACTIONS = np.array([[1.0, 0, 0, 0, 0, 0.1, 1], [0, 0.5, 0, 0, 0, 0, 1], [0, 0, -1, 0, 0, 0, 0]])


def chunk(uncertainty: Uncertainty | None = None) -> ActionChunk:
    return ActionChunk(ACTIONS, np.zeros((3, 3), np.int64), uncertainty)


def record(tmp_path: Path, log: Callable[[EpisodeRecording], None], rig: Rig | None = None) -> Rrd:
    """What a recording holds of what `log` tells it."""
    rig = rig or Rig({"front": None}, LIBERO)
    recording = Recordings(Destination(folder=tmp_path), rig, "tests").open("episode")
    log(recording)
    recording.close()
    return Rrd(tmp_path / "episode.rrd")


def seen(depth: np.ndarray | None, **parts: object) -> CameraImage:
    return CameraImage(RED, K, depth, **parts)


def flipped(view: CameraImage) -> CameraImage:
    """The same moment in a picture that is flipped left to right."""
    image = np.asarray(view.image)[:, ::-1]
    depth = None if view.depth is None else view.depth[:, ::-1]
    return CameraImage(image, mirror_intrinsics(K, WIDTH), depth, view.extrinsics, mirrored=True)


DEPTH = np.linspace(0.5, 0.7, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
PLACE = looking_at(np.array([0.9, 0.3, 0.6]), np.array([0.3, 0.0, 0.0]))


@pytest.mark.parametrize("as_it_came", [lambda view: view, flipped], ids=["as it is", "flipped"])
def test_points_lie_in_the_robots_frame_where_the_drawn_camera_sees_them(tmp_path, as_it_came):
    view = as_it_came(seen(DEPTH, extrinsics=PLACE))
    found = record(tmp_path, lambda recording: recording.show_cameras(0, {"front": view}, "push"))
    points = found.arrays("robot/points/front/measured", "Points3D:positions")[0]
    # By hand: the pixel in row 10, column 50 of the real camera's picture.
    ray = np.array([(50.5 - 30) / 40, (10.5 - 20) / 44, 1.0]) * DEPTH[10, 50]
    expected = transform(PLACE, ray[None])[0]
    assert np.abs(points - expected).sum(axis=1).min() < 1e-6
    # The camera that is drawn is one that can be, and sees each point at the pixel that has its color.
    turn = found.arrays("robot/cameras/front", "Transform3D:mat3x3")[0].reshape(3, 3).T
    assert np.linalg.det(turn) == pytest.approx(1)
    drawn = np.eye(4)
    drawn[:3, :3] = turn
    drawn[:3, 3] = found.arrays("robot/cameras/front", "Transform3D:translation")[0][0]
    np.testing.assert_allclose(drawn, PLACE, atol=1e-6)
    drawn_K = found.arrays("robot/cameras/front", "Pinhole:image_from_camera")[0].reshape(3, 3).T
    pixels, _ = project(points, drawn_K, drawn)
    rows, columns = np.floor(pixels[:, 1]).astype(int), np.floor(pixels[:, 0]).astype(int)
    colors = found.arrays("robot/points/front/measured", "Points3D:colors")[0].astype(np.uint32) >> 24
    np.testing.assert_array_equal(colors, RED[rows, columns, 0])
    picture = found.pictures("robot/cameras/front/image")[0]
    assert (picture[12:20, 44:52, 0] > 200).all()
    assert (picture[:, :32, 0] < 60).all()


def test_a_camera_without_a_place_keeps_its_own_frame_and_says_so(tmp_path):
    rig = Rig({"front": Camera(K, HEIGHT, WIDTH)}, LIBERO)
    view = CameraImage(RED)
    found = record(
        tmp_path, lambda recording: recording.show_cameras(0, {"front": view}, "push", {"front": DEPTH}), rig
    )
    points = found.arrays("unplaced/front/points/estimated", "Points3D:positions")[0]
    np.testing.assert_allclose(points[:, 2].min(), 0.5, atol=1e-6)
    np.testing.assert_allclose(points[0], np.array([-29.5 / 40, -19.5 / 44, 1]) * 0.5, atol=1e-6)
    assert "Nobody says where these cameras stand" in found.text()
    assert not any(entity.startswith("robot/points") for entity in found.entities)


def test_depth_is_kept_in_millimeters_and_holes_become_no_points(tmp_path):
    depth = DEPTH.copy()
    depth[:4] = 0
    depth[4, 0] = np.nan
    view = seen(depth, extrinsics=PLACE)
    found = record(
        tmp_path,
        lambda recording: recording.show_cameras(3, {"front": view}, "push", {"front": 2 * DEPTH[::4, ::4]}),
    )
    picture = found.pictures("robot/cameras/front/depth/measured", "EncodedDepthImage")[3]
    np.testing.assert_array_equal(picture, np.round(np.nan_to_num(depth) * 1000))
    assert found.rows("robot/cameras/front/depth/measured", "EncodedDepthImage:meter") == {3: [1000.0]}
    assert len(found.arrays("robot/points/front/measured", "Points3D:positions")[3]) == 44 * WIDTH - 1
    assert len(found.arrays("robot/points/front/estimated", "Points3D:positions")[3]) == 12 * 16


def test_a_chunk_is_arrows_in_meters_one_after_another_from_the_gripper(tmp_path):
    def log(recording: EpisodeRecording) -> None:
        recording.show_gripper(4, GRIPPER)
        recording.show_chunk(4, chunk(), 3)

    found = record(tmp_path, log)
    vectors = found.arrays("robot/chunk", "Arrows3D:vectors")[4]
    origins = found.arrays("robot/chunk", "Arrows3D:origins")[4]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [0.05, 0.025, 0.05], atol=1e-7)
    np.testing.assert_allclose(origins[0], GRIPPER, atol=1e-7)
    np.testing.assert_allclose(origins[1:], (origins + vectors)[:-1], atol=1e-7)
    opened, closed = (64, 224, 208), (255, 150, 60)
    colors = [
        tuple(int(color).to_bytes(4, "big")[:3])
        for color in found.arrays("robot/chunk", "Arrows3D:colors")[4]
    ]
    assert colors == [opened, opened, closed]


@pytest.mark.parametrize(
    ("units", "gripper", "length", "reason"),
    [
        (UNKNOWN, GRIPPER, 1.0, "how long 1 in the actions is"),
        (LIBERO, None, 0.05, "where the gripper is"),
        (ActionUnits(0.02, frame="gripper"), GRIPPER, 0.02, "along the gripper's axes"),
        (ActionUnits(0.02), GRIPPER, 0.02, "along whose axes"),
    ],
)
def test_a_chunk_without_a_place_starts_from_an_origin_of_its_own(tmp_path, units, gripper, length, reason):
    def log(recording: EpisodeRecording) -> None:
        recording.show_gripper(0, gripper)
        recording.show_chunk(0, chunk(), 3)

    found = record(tmp_path, log, Rig({"front": None}, units))
    np.testing.assert_allclose(found.arrays("chunk", "Arrows3D:origins")[0][0], 0)
    np.testing.assert_allclose(found.arrays("chunk", "Arrows3D:vectors")[0][0], [length, 0, 0], rtol=1e-6)
    assert "robot/chunk" not in found.entities
    assert reason in found.text()


def test_steps_and_seconds_lead_through_actions_path_and_entropy(tmp_path):
    places = GRIPPER + np.array([[0, 0, 0], [0.04, 0, 0], [0.04, 0.02, 0]])
    entropy = np.array([[3.0, 2, 0.5], [2.5, 1, 0.25], [9, 9, 9]])

    def log(recording: EpisodeRecording) -> None:
        recording.show_gripper(0, places[0])
        recording.show_chunk(0, chunk(Uncertainty(entropy, np.ones(3))), 2)
        for step in range(2):
            recording.move(step, ACTIONS[step])
            recording.show_gripper(step + 1, places[step + 1])
        recording.end(2, True)

    found = record(tmp_path, log)
    translation = found.arrays("actions/translation", "Scalars:scalars")
    np.testing.assert_allclose(translation[0], [0.05, 0, 0])
    np.testing.assert_allclose(translation[1], [0, 0.025, 0])
    np.testing.assert_allclose(found.arrays("actions/rotation", "Scalars:scalars")[0], [0, 0, 0.05])
    assert list(found.rows("actions/gripper", "Scalars:scalars", "time")) == [0, 50_000_000]  # 20 Hz
    strips = found.arrays("robot/gripper/path", "LineStrips3D:strips")
    np.testing.assert_allclose(strips[1][0], places[:2], rtol=1e-6)
    np.testing.assert_allclose(strips[2][0], places[1:], rtol=1e-6)
    told = found.arrays("uncertainty/entropy", "Scalars:scalars")
    assert {step: values.tolist() for step, values in told.items()} == {0: [3.0, 2, 0.5], 1: [2.5, 1, 0.25]}
    assert found.property("success") is True
    assert found.property("steps") == 2
    assert "Success after 2 steps" in found.text()


def test_a_kill_loses_the_last_second_at_most(tmp_path):
    script = Path(__file__).with_name("killed_recording.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    times = {}
    for line in process.stdout:
        step, moment = line.split()
        times[int(step)] = float(moment)
        if float(moment) - times[0] > 2:
            break
    process.kill()
    process.wait()
    kept = max(Rrd(tmp_path / "killed.rrd").rows("actions/gripper", "Scalars:scalars"))
    assert times[max(times)] - times[kept] < 1


@pytest.mark.parametrize("where", ["", "/proc/recordings", __file__, "a\0b"])
def test_a_folder_that_takes_no_files_is_refused_before_anything_is_played(where):
    with pytest.raises(InputError, match="Recordings cannot be written into"):
        Destination.parse(where)


@pytest.mark.parametrize(
    "where", ["http://here/proxy", "rerun+http://here:99999999/proxy", "rerun+http://[::1/"]
)
def test_what_is_no_address_of_a_viewer_is_refused(where):
    with pytest.raises(InputError, match="is no address of a Rerun viewer"):
        Destination.parse(where)


def test_a_name_of_any_run_gives_no_warning(tmp_path, capfd):
    for title in ("bridge_orig/1.0.0", "nano, served", "runs (new).v2 on libero_spatial"):
        recording = Recordings(Destination(folder=tmp_path), Rig(), title).open("episode")
        recording.close()
    assert "requires migration" not in capfd.readouterr().err

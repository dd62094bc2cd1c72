"""`spatialvla calibrate`: tables in, a calibration file and a drawing out."""

import csv

import numpy as np
import pytest
import yaml
from cameras import CAMERA, looking_at, random_gripper_poses
from PIL import Image

from calibration.boards import BOARD, HAND_EYE, LYING, drawn, pictures
from spatialvla.calibration.chessboard import Chessboard
from spatialvla.cli.main import main
from spatialvla.geometry.extrinsics import inverse, project, transform
from spatialvla.geometry.robot_calibration import RobotCalibration

FRONT = looking_at([1.3, 0.2, 0.7], [0.4, 0, 0.1])
KNOWN = ["--intrinsics", "600", "610", "330", "235", "--size", "640", "480"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, columns, rows):
    with open(name, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([[*map(str, row)] for row in rows])


def front_rows(noise=0.5, count=20):
    rng = np.random.default_rng(0)
    points = rng.uniform([0.2, -0.3, 0.0], [0.7, 0.3, 0.4], (count, 3))
    return np.c_[project(points, CAMERA.intrinsics, FRONT)[0] + rng.normal(0, noise, (count, 2)), points]


def refused(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *words])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_standing_camera_from_points(capsys):
    rows = front_rows()
    rows[6, :2] += 80
    write("points.csv", ["u", "v", "x", "y", "z"], rows)
    words = ["--table", "points.csv", "--camera", "front", "--out", "robot.yaml", "--drawing", "out/seen.png"]
    main(["calibrate", *words, *KNOWN, "--depth-range", "0.2", "3"])
    out = capsys.readouterr().out
    assert "front: 20 points, 1 left out" in out
    assert "outliers: row 7 (1" in out
    camera = RobotCalibration.load("robot.yaml").camera("front")
    np.testing.assert_allclose(camera.extrinsics, FRONT, atol=0.01)
    np.testing.assert_array_equal(camera.camera.intrinsics, CAMERA.intrinsics)
    assert camera.depth_range == (0.2, 3)
    drawing = np.asarray(Image.open("out/seen.png"))
    assert drawing.shape == (500, 640, 3)
    ring = drawing[int(rows[6, 1]) - 7 : int(rows[6, 1]) + 8, int(rows[6, 0]) - 7 : int(rows[6, 0]) + 8]
    assert (ring == (255, 80, 80)).all(axis=2).any()


def test_another_camera_is_added_and_one_is_calibrated_again():
    write("points.csv", ["u", "v", "x", "y", "z"], front_rows())
    words = ["calibrate", "--table", "points.csv", "--out", "robot.yaml"]
    main([*words, "--camera", "front", *KNOWN, "--depth-range", "0.2", "3"])
    main([*words, "--camera", "side", *KNOWN])
    write("points.csv", ["u", "v", "x", "y", "z"], front_rows(noise=0))
    main([*words, "--camera", "front"])
    cameras = RobotCalibration.load("robot.yaml").cameras
    assert list(cameras) == ["front", "side"]
    np.testing.assert_allclose(cameras["front"].extrinsics, FRONT, atol=1e-6)
    assert cameras["front"].depth_range == (0.2, 3)


def test_the_gripper_seen_at_its_poses_in_yaml_and_in_pictures(capsys):
    rows = front_rows()
    Image.fromarray(np.full((480, 640, 3), 90, np.uint8)).save("a.png")
    Image.fromarray(np.full((480, 640, 3), 60, np.uint8)).save("b.png")
    names = ("u", "v", "gripper_x", "gripper_y", "gripper_z")
    turned = {"gripper_rx": 3.14, "gripper_ry": 0, "gripper_rz": 0}
    entries = [
        {**dict(zip(names, map(float, row), strict=True)), **turned, "picture": "a.png" if i < 9 else "b.png"}
        for i, row in enumerate(rows)
    ]
    with open("points.yaml", "w") as file:
        yaml.safe_dump(entries, file)
    words = ["--table", "points.yaml", "--camera", "front", "--out", "robot.yaml", "--drawing", "seen.webp"]
    main(["calibrate", *words, *KNOWN])
    assert Image.open("seen.webp").size == (1280, 500)
    np.testing.assert_allclose(
        RobotCalibration.load("robot.yaml").camera("front").extrinsics, FRONT, atol=0.01
    )


def wrist_rows():
    rng = np.random.default_rng(1)
    poses = random_gripper_poses(rng, 400)
    in_gripper = transform(inverse(poses), np.tile([0.5, 0.0, 0.02], (400, 1, 1)))[:, 0]
    pixels, depth = project(in_gripper, CAMERA.intrinsics, HAND_EYE)
    inside = np.flatnonzero(((pixels > 0) & (pixels < [640, 480])).all(axis=1) & (depth > 0.05))[:25]
    half = np.arccos(np.clip((np.trace(poses[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)) / 2
    turns = poses[:, :3, :3]
    axes = np.stack(
        [turns[:, 2, 1] - turns[:, 1, 2], turns[:, 0, 2] - turns[:, 2, 0], turns[:, 1, 0] - turns[:, 0, 1]], 1
    )
    quaternions = np.c_[
        np.sin(half)[:, None] * axes / np.linalg.norm(axes, axis=1, keepdims=True), np.cos(half)
    ]
    points = np.tile([0.5, 0.0, 0.02], (400, 1))
    return np.c_[pixels, points, poses[:, :3, 3], quaternions][inside]


WRIST_COLUMNS = [
    *("u", "v", "x", "y", "z", "gripper_x", "gripper_y", "gripper_z"),
    *("gripper_qx", "gripper_qy", "gripper_qz", "gripper_qw"),
]


def test_a_camera_in_the_hand_from_points(capsys):
    write("points.csv", WRIST_COLUMNS, wrist_rows())
    main(
        ["calibrate", "--table", "points.csv", "--camera", "wrist", "--wrist", "--out", "robot.yaml", *KNOWN]
    )
    np.testing.assert_allclose(
        RobotCalibration.load("robot.yaml").camera("wrist").hand_eye, HAND_EYE, atol=1e-5
    )
    assert "position in the gripper's frame: (0.0200, 0.0600, -0.0800) m" in capsys.readouterr().out
    again = ["--table", "points.csv", "--camera", "wrist", "--out", "robot.yaml"]
    assert "is carried by the gripper; add --wrist" in refused(capsys, *again)


def test_a_board_in_pictures(capsys):
    pytest.importorskip("cv2", exc_type=ImportError)
    poses, _ = pictures(np.random.default_rng(2), wrist=True, count=6)
    rows = []
    for number, pose in enumerate(poses):
        Image.fromarray(drawn(inverse(LYING) @ pose @ HAND_EYE, fine=2)).save(f"{number}.png")
        rows.append([f"{number}.png", *pose[:3, 3], *rotation_vector(pose[:3, :3])])
    Image.fromarray(np.zeros((480, 640, 3), np.uint8)).save("dark.png")
    rows.append(["dark.png", *rows[0][1:]])
    columns = ["picture", "gripper_x", "gripper_y", "gripper_z", "gripper_rx", "gripper_ry", "gripper_rz"]
    write("board.csv", columns, rows)
    words = ["--table", "board.csv", "--board", str(BOARD.columns), str(BOARD.rows), str(BOARD.square)]
    main(["calibrate", *words, "--wrist", "--camera", "wrist", "--out", "robot.yaml", *KNOWN])
    out = capsys.readouterr().out
    assert "240 corners in 6 pictures, none left out" in out
    assert "without the whole board: dark.png" in out
    np.testing.assert_allclose(
        RobotCalibration.load("robot.yaml").camera("wrist").hand_eye, HAND_EYE, atol=2e-3
    )


def rotation_vector(turn):
    angle = np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return angle * axis / np.linalg.norm(axis)


COLUMNS = ["u", "v", "x", "y", "z"]


@pytest.mark.parametrize(
    ("columns", "change", "options", "sentence"),
    [
        (["u", "v", "x", "y", "zz"], None, KNOWN, "column 'zz' is unknown; did you mean z?"),
        (["u", "v", "x", "y"], None, KNOWN, "column z is missing; x, y, z belong together"),
        (["u", "v"], None, KNOWN, "needs columns x y z"),
        (["x", "y", "z"], None, KNOWN, "needs columns u v"),
        (COLUMNS, (3, 2, "left"), KNOWN, "row 4, x is 'left', which is no finite number"),
        (COLUMNS, (3, 2, "nan"), KNOWN, "row 4, x is 'nan', which is no finite number"),
        (COLUMNS, (3, 2, ""), KNOWN, "row 4 has no x"),
        (COLUMNS, (3, 0, "700"), KNOWN, "The point of row 4 was seen at (700, "),
        (COLUMNS, None, [], "give both --intrinsics fx fy cx cy and --size"),
        (COLUMNS, None, [*KNOWN, "--wrist"], "A camera in the hand needs u v, x y z"),
        (COLUMNS, None, [*KNOWN, "--board", "8", "5", "0.03"], "With --board the table needs"),
        (COLUMNS, None, [*KNOWN, "--drawing", "seen.txt"], "no ending of a picture"),
        (COLUMNS, None, [*KNOWN, "--picture", "none.png"], "none.png is no picture"),
        (
            COLUMNS,
            None,
            ["--intrinsics", "1", "1", "1", "1", "--size", "640", "480"],
            "focal length of fx = 1",
        ),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_writes_nothing(
    capsys, folder, columns, change, options, sentence
):
    rows = [list(row[: len(columns)]) for row in front_rows()]
    if change is not None:
        row, column, value = change
        rows[row][column] = value
    write("points.csv", columns, rows)
    words = ["--table", "points.csv", "--camera", "front", "--out", "robot.yaml", *options]
    error = refused(capsys, *words)
    assert sentence in error
    assert error.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["points.csv"]


def test_doubtful_results_are_said_so(capsys):
    """With four pixels of noise everywhere, no point is wrong and none is good."""
    write("points.csv", COLUMNS, front_rows(noise=4, count=12))
    main(["calibrate", "--table", "points.csv", "--camera", "front", "--out", "robot.yaml", *KNOWN])
    out = capsys.readouterr().out
    assert "look at K, distortion" in out
    assert "hold the camera loosely" in out
    write("points.csv", COLUMNS, front_rows(noise=0.3, count=40))
    main(["calibrate", "--table", "points.csv", "--camera", "front", "--out", "robot.yaml"])
    out = capsys.readouterr().out
    assert "look at K, distortion" not in out
    assert "loosely" not in out


def test_degenerate_points_are_refused(capsys):
    rows = front_rows()
    for change, sentence in ((rows[:5], "at least 6 points"), (rows * [1, 1, 1, 1, 0], "lie in a plane")):
        write("points.csv", COLUMNS, change)
        assert sentence in refused(
            capsys, "--table", "points.csv", "--camera", "front", "--out", "robot.yaml", *KNOWN
        )


@pytest.mark.parametrize(
    ("columns", "row", "sentence"),
    [
        (["u", "v", "gripper_x", "gripper_y", "gripper_z"], [1, 1, 0, 0, 0], "and one rotation"),
        (["u", "v", "gripper_rx", "gripper_ry", "gripper_rz"], [1, 1, 0, 0, 0], "pose needs gripper_x"),
        (WRIST_COLUMNS, [1, 1, 0, 0, 0, 0.1, 0, 0, 0, 0, 0, 2], "must have length 1"),
        (WRIST_COLUMNS, [1, 1, 0, 0, 0, 400, 0, 0, 0, 0, 0, 1], "row 1: A gripper's pose cannot lead 400 m"),
        (
            [*WRIST_COLUMNS[:8], "gripper_roll", "gripper_pitch", "gripper_yaw"],
            [1] * 8 + [0, 0, 90],
            "not degrees",
        ),
    ],
)
def test_poses_of_the_gripper_that_cannot_be(capsys, columns, row, sentence):
    write("points.csv", columns, [row] * 8)
    words = ["--table", "points.csv", "--camera", "front", "--out", "robot.yaml", *KNOWN]
    assert sentence in refused(capsys, *words)


def test_a_table_that_is_none(capsys, folder):
    words = ["--camera", "front", "--out", "robot.yaml", *KNOWN]
    assert "does not exist; name a CSV or YAML file" in refused(capsys, "--table", "none.csv", *words)
    (folder / "empty.csv").write_text("u,v,x,y,z\n")
    assert "there is no row" in refused(capsys, "--table", "empty.csv", *words)
    (folder / "other.yaml").write_text("u: 3\n")
    assert "no list of rows" in refused(capsys, "--table", "other.yaml", *words)
    assert Chessboard(8, 5, 0.03).corners.shape == (40, 3)

"""All cameras of an RH20T scene: where they stood, by a synthetic scene in the published conventions, and the state."""

import pickle

import numpy as np
import pytest
import rh20t_writer as make
from cameras import looking_at, rotation
from rh20t_writer import FRONT, START, WRIST

from spatialvla.data.rh20t import RH20TSource
from spatialvla.errors import CheckpointError
from spatialvla.geometry.extrinsics import pose_matrix, project

TIMES = START + np.arange(21) * 100
SIDE, LEFT, UNKNOWN = "750612070853", "039422060546", "999"

# configs.json of the dataset's API: in_hand, tc_mat (tool -> the first of them), align_mat_tcp, align_mat_base.
TURN = [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
HALF = np.diag([-1, -1, 1, 1])
ROBOTS = {
    1: (
        "flexiv",
        ["043322070878"],
        [[0, -1, 0, 0], [1, 0, 0, 0.077], [0, 0, 1, 0.2665], [0, 0, 0, 1]],
        None,
        None,
    ),
    2: (
        "flexiv",
        ["104422070042"],
        [[0, -1, 0, 0], [1, 0, 0, 0.077], [0, 0, 1, 0.2915], [0, 0, 0, 1]],
        None,
        None,
    ),
    3: (
        "ur5",
        ["045322071843"],
        [[1, 0, 0, 0.027], [0, 1, 0, 0.0775], [0, 0, 1, 0.240], [0, 0, 0, 1]],
        TURN,
        HALF,
    ),
    4: (
        "ur5",
        ["045322071843"],
        [[1, 0, 0, 0.027], [0, 1, 0, 0.0775], [0, 0, 1, 0.210], [0, 0, 0, 1]],
        TURN,
        HALF,
    ),
    5: (
        "franka",
        ["104422070042", "135122079702"],
        [[0, 1, 0, 0.033], [-1, 0, 0, -0.05], [0, 0, 1, 0.09], [0, 0, 0, 1]],
        HALF,
        None,
    ),
    6: (
        "kuka",
        ["135122075425", "135122070361"],
        [[0, -1, 0, 0.035], [1, 0, 0, 0.055], [0, 0, 1, 0.20], [0, 0, 0, 1]],
        None,
        None,
    ),
    7: (
        "kuka",
        ["135122075425", "135122070361"],
        [[0, -1, 0, 0.035], [1, 0, 0, 0.055], [0, 0, 1, 0.20], [0, 0, 0, 1]],
        None,
        None,
    ),
}
# cam_definitions.py of DROID's authors, of the cameras that are not the front one.
PLACES = {
    1: {"secondary": SIDE, "side_left": LEFT, "wrist": WRIST},
    2: {"secondary": "105422061350", "side_left": "104122063678", "wrist": "104422070042"},
    3: {"secondary": "104122062295", "side_left": "104122062823", "wrist": "045322071843"},
    4: {"secondary": "104122062295", "side_left": "104122062823", "wrist": "045322071843"},
    5: {"secondary": "105422061350", "side_left": "104122063678", "wrist": "135122079702"},
    6: {"secondary": "104122063633", "side_left": "104122064161", "wrist": "135122070361"},
    7: {"secondary": "104122063633", "side_left": "104122064161", "wrist": "135122070361"},
}
FRONTS = {
    1: FRONT,
    **dict.fromkeys((2, 5), "037522062165"),
    **dict.fromkeys((3, 4), "038522062288"),
    **dict.fromkeys((6, 7), "104122061018"),
}

# The truth, in the aligned base: that of tcp_base.npy.
STANDING = {
    "front": looking_at([1.1, 0.1, 0.6], [0.4, 0, 0.1]),
    "secondary": looking_at([0.4, -0.9, 0.5], [0.4, 0, 0.1]),
    "side_left": looking_at([0.5, 0.8, 0.7], [0.4, 0, 0.1]),
}
SECOND_HAND = pose_matrix(np.array([0.05, -0.06, -0.12]), rotation([0.1, -0.2, 0.6]))
MARKER = pose_matrix(np.array([0.5, 0.1, 0.0]), rotation([0.02, 0.01, 0.8]))
TOOL = pose_matrix(np.array([0.45, -0.1, 0.3]), rotation([2.9, 0.3, -0.2]))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def aligned(time):
    """(4, 4) of the tool in tcp_base.npy."""
    x, y, z, w, _, _, k = make.pose(time)
    yaw = 2 * np.arctan2(k, w)
    return pose_matrix(np.array([x, y, z]), rotation([0, 0, yaw]))


def told(robot, tool):
    """The tool's pose at the calibration as the robot tells it. tool: (4, 4) in the robot's own base."""
    if robot == "kuka":
        r = tool[:3, :3]
        angles = [np.arctan2(r[2, 1], r[2, 2]), -np.arcsin(r[2, 0]), np.arctan2(r[1, 0], r[0, 0])]
        return [*(1000 * tool[:3, 3]), *angles]
    turn = tool[:3, :3] @ np.diag([1, -1, -1]) if robot == "franka" else tool[:3, :3]
    angle = np.arccos((np.trace(turn) - 1) / 2)
    skew = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    axis = skew / (2 * np.sin(angle))
    if robot == "franka":
        return [*tool[:3, 3], *(angle * axis)]
    return [*tool[:3, 3], np.cos(angle / 2), *(np.sin(angle / 2) * axis)]


def written(root, number=1, late=0, **changed):
    """A scene of one of the robots; and what marker -> camera its calibration says."""
    robot, hands, tool_camera, _, base_axes = ROBOTS[number]
    tool_camera = np.array(tool_camera, float)
    base = np.eye(4) if base_axes is None else np.array(base_axes, float)  # aligned base -> the robot's own
    tool = base @ TOOL  # the tool's own axes, in the robot's own base
    serials = {FRONTS[number]: "front", **{serial: name for name, serial in PLACES[number].items()}}
    in_base = {serial: base @ STANDING[name] for serial, name in serials.items() if name in STANDING}
    in_base[hands[0]] = tool @ np.linalg.inv(tool_camera)
    if len(hands) > 1:
        in_base[hands[1]] = tool @ SECOND_HAND
    markers = {serial: np.linalg.inv(pose) @ base @ MARKER for serial, pose in in_base.items()} | changed
    folder = root / f"RH20T_cfg{number}"
    cameras = (*in_base, UNKNOWN)
    make.write_descriptions(root, task_0001="Press the button")
    make.write_calibration(folder, cameras)
    make.write_places(folder, markers, told(robot, tool))
    scene = make.write_scene(folder / make.scene(1, 1, number), TIMES, serials=cameras)
    times = [int(time) + late for time in TIMES]
    make.pickled(scene / f"cam_{hands[0]}" / "timestamps.npy", {"color": times, "depth": times})
    return scene, markers, tool


@pytest.mark.parametrize("number", ROBOTS)
def test_every_camera_stands_where_it_stood(tmp_path, number):
    _, hands, tool_camera, tool_axes, base_axes = ROBOTS[number]
    tool_axes, base_axes = (np.eye(4) if axes is None else np.array(axes) for axes in (tool_axes, base_axes))
    _, markers, tool = written(tmp_path, number, late=30)
    source = RH20TSource(tmp_path)
    episode = source.episode(0)
    named = PLACES[number] | ({"camera_" + hands[0]: hands[0]} if hands[0] != PLACES[number]["wrist"] else {})
    assert set(episode.other_views) == {*named, f"camera_{UNKNOWN}"}

    np.testing.assert_allclose(episode.extrinsics[3], STANDING["front"], atol=1e-9)
    for name in ("secondary", "side_left"):
        np.testing.assert_allclose(episode.other_views[name].extrinsics[3], STANDING[name], atol=1e-9)
    # As the API computes them: `extrinsics_base_aligned`, which is base -> camera.
    base_marker = np.linalg.inv(markers[hands[0]]) @ np.array(tool_camera) @ np.linalg.inv(tool)
    for name, serial in named.items():
        if serial not in hands:
            published = markers[serial] @ base_marker @ base_axes
            np.testing.assert_allclose(
                np.linalg.inv(episode.other_views[name].extrinsics[0]), published, atol=1e-9
            )
    # Cameras in the hand go with the tool, and are where it was when their image was taken, 30 ms after the step.
    for serial, late, mounted in (
        (hands[0], 30, np.linalg.inv(np.array(tool_camera, float))),
        *((serial, 0, SECOND_HAND) for serial in hands[1:]),
    ):
        view = next(episode.other_views[name] for name, own in named.items() if own == serial)
        for step in (0, 7):
            tool_then = aligned(TIMES[step] + late) @ np.linalg.inv(tool_axes)
            np.testing.assert_allclose(view.extrinsics[step], tool_then @ mounted, atol=1e-9)
        moved = np.linalg.norm(view.extrinsics[7, :3, 3] - view.extrinsics[0, :3, 3])
        assert moved > 0.05
    # All of them see the tool's tip at the same place.
    tip = aligned(TIMES[5])[:3, 3]
    for view in (episode, *episode.other_views.values()):
        if view.extrinsics is not None:
            pixels, depth = project(tip[None], view.camera.intrinsics, view.extrinsics[5])
            if depth[0] > 0:
                ray = np.linalg.inv(view.camera.intrinsics) @ [*pixels[0], 1] * depth[0]
                np.testing.assert_allclose((view.extrinsics[5] @ [*ray, 1])[:3], tip, atol=1e-9)
    unknown = episode.other_views[f"camera_{UNKNOWN}"]
    assert unknown.extrinsics is None
    assert unknown.camera.width == 1280


def test_views_have_pictures_and_k_and_no_depth(tmp_path):
    written(tmp_path)
    episode = RH20TSource(tmp_path).episode(0)
    view = episode.other_views["wrist"]
    np.testing.assert_allclose(view.images([4, 9]).mean(axis=(1, 2, 3)), [20, 45], atol=2)
    np.testing.assert_allclose(view.camera.scaled_to(360, 640)[0], [450, 0, 320])
    assert view.depth([0]) is None
    again = pickle.loads(pickle.dumps(RH20TSource(tmp_path))).episode(0)  # from what was kept
    for name, before in episode.other_views.items():
        after = again.other_views[name]
        np.testing.assert_array_equal(after.images([4]), before.images([4]))
        if before.extrinsics is None:
            assert after.extrinsics is None
        else:
            np.testing.assert_array_equal(after.extrinsics, before.extrinsics)


def test_the_state_is_the_tool_s_pose_and_the_measured_gripper(tmp_path):
    make.write_descriptions(tmp_path)
    widths = np.where(np.arange(21) < 8, 95.0, 19.0)  # commanded; measured is 1 mm more
    make.write_scene(tmp_path / make.scene(1, 1), TIMES, widths)
    source = RH20TSource(tmp_path)
    state = source.episode(0).state
    assert source.state_names == ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
    expected = np.array([make.pose(time) for time in TIMES[:-1]])[:, [0, 1, 2, 4, 5, 6, 3]]
    np.testing.assert_allclose(state[:, :7], expected, atol=1e-9)
    np.testing.assert_allclose(state[:, 7], np.where(np.arange(20) < 8, 1.0, 20 / 95))
    assert state.dtype == np.float64


def test_a_quaternion_has_one_sign(tmp_path):
    """A tool that points down, whose recorded quaternions change their sign."""
    make.write_descriptions(tmp_path)
    scene = make.write_scene(tmp_path / make.scene(1, 1), TIMES)
    tcp = [
        {"timestamp": int(time), "tcp": (-1) ** number * np.array([0.4, 0, 0.2, -0.05, 0.8, 0.6, 0])}
        for number, time in enumerate(TIMES)
    ]
    for entry in tcp:
        entry["tcp"][:3] = [0.4, 0, 0.2]
    make.pickled(scene / "transformed/tcp_base.npy", {FRONT: tcp})
    state = RH20TSource(tmp_path).episode(0).state
    turn = np.array([0.8, 0.6, 0, -0.05]) / np.sqrt(1.0025)
    np.testing.assert_allclose(state[:, 3:7], np.tile(turn, (20, 1)), atol=1e-9)


def test_without_places_the_cameras_have_k_alone(tmp_path):
    """As the calibrations of those who copied intrinsics.npy alone."""
    scene, _, _ = written(tmp_path)
    before = RH20TSource(tmp_path)
    contents, known = before.contents, before.episode(0).extrinsics
    (scene.parent / "calib" / str(START) / "extrinsics.npy").unlink()
    source = RH20TSource(tmp_path)
    episode = source.episode(0)
    assert known is not None
    assert [view.extrinsics for view in (episode, *episode.other_views.values())] == [None] * 5
    assert episode.camera.width == episode.other_views["wrist"].camera.width == 1280
    assert source.contents != contents


def test_a_camera_that_is_not_there_or_stops_early_is_missing(tmp_path):
    scene, _, _ = written(tmp_path)
    make.pickled(scene / f"cam_{SIDE}" / "timestamps.npy", {"color": [int(time) for time in TIMES[:15]]})
    make.pickled(scene / f"cam_{LEFT}" / "timestamps.npy", {"color": []})
    views = RH20TSource(tmp_path).episode(0).other_views
    assert set(views) == {"wrist", f"camera_{UNKNOWN}"}
    make.pickled(scene / f"cam_{SIDE}" / "timestamps.npy", {"color": [int(time) for time in TIMES[:18]]})
    make.pickled(scene / f"cam_{LEFT}" / "timestamps.npy", {"color": [int(time) for time in TIMES]})
    assert set(RH20TSource(tmp_path).episode(0).other_views) == {
        "wrist",
        "secondary",
        "side_left",
        f"camera_{UNKNOWN}",
    }


BAD = looking_at([0.4, -0.9, 0.5], [0.4, 0, 0.1])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.full((4, 4), np.nan), "must not contain NaN"),
        (np.zeros((4, 4)), "must not contain NaN"),
        (np.diag([1000.0, 1000, 1000, 1]) @ BAD, "must have a rotation whose columns are orthonormal"),
    ],
)
def test_calibrations_that_are_no_rigid_motion(tmp_path, matrix, message):
    written(tmp_path, **{SIDE: matrix})
    episode = RH20TSource(tmp_path).episode(0)
    np.testing.assert_allclose(episode.extrinsics[0], STANDING["front"], atol=1e-9)
    view = episode.other_views["secondary"]
    assert len(view.images([0])) == 1
    with pytest.raises(
        CheckpointError, match=rf"scene_0001_cfg_0001: the calibration of cam_{SIDE} .*{message}"
    ):
        _ = view.extrinsics


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tcp.npy", np.zeros(5), r"tcp\.npy has no pose of 7 numbers; copy it again"),
        ("tcp.npy", np.full(7, np.nan), r"tcp\.npy has no pose of 7 numbers"),
        ("tcp.npy", b"nothing", r"tcp\.npy cannot be read"),
        ("extrinsics.npy", {SIDE: [[1, 2, 3]]}, rf"extrinsics\.npy has no 4x4 matrix of camera {SIDE}"),
        ("extrinsics.npy", b"nothing", r"extrinsics\.npy cannot be read"),
    ],
)
def test_damaged_calibrations_are_errors_that_name_the_file(tmp_path, file, content, message):
    scene, _, _ = written(tmp_path)
    path = scene.parent / "calib" / str(START) / file
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        make.pickled(path, content)
    else:
        np.save(path, content)
    with pytest.raises(CheckpointError, match=message):
        RH20TSource(tmp_path).episode(0)

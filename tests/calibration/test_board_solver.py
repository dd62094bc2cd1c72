"""Boards in pictures: simulated corners lead to the camera, held by the gripper or seen by a camera in the hand."""

import numpy as np
import pytest
from cameras import CAMERA, rotation

from calibration.boards import BOARD, FRONT, HAND_EYE, drawn, pictures
from spatialvla.calibration.board_solver import solve_board
from spatialvla.calibration.chessboard import Chessboard
from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import inverse, pose_matrix, project, transform


@pytest.mark.parametrize("wrist", [False, True])
def test_exact_corners_give_the_exact_pose(wrist):
    poses, seen = pictures(np.random.default_rng(0), wrist)
    fit = solve_board(BOARD.corners, seen, poses, CAMERA, wrist)
    np.testing.assert_allclose(fit.pose, HAND_EYE if wrist else FRONT, atol=1e-6)
    assert fit.largest_error < 1e-4
    assert fit.errors.shape == (12 * 40,)


@pytest.mark.parametrize("wrist", [False, True])
def test_the_error_is_within_what_the_noise_allows(wrist):
    rng, ratios = np.random.default_rng(1), []
    for _ in range(6):
        poses, seen = pictures(rng, wrist, noise=0.3)
        fit = solve_board(BOARD.corners, seen, poses, CAMERA, wrist)
        off = np.linalg.norm(fit.pose[:3, 3] - (HAND_EYE if wrist else FRONT)[:3, 3])
        assert off < 0.01
        assert not fit.outliers.any()
        ratios.append(off / fit.position_sigma)
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(1, abs=0.6)


@pytest.mark.parametrize("wrist", [False, True])
def test_a_picture_with_another_gripper_pose_is_an_outlier(wrist):
    poses, seen = pictures(np.random.default_rng(2), wrist, noise=0.2)
    poses[[3, 8]] = poses[[8, 3]]
    fit = solve_board(BOARD.corners, seen, poses, CAMERA, wrist)
    assert sorted({number // 40 for number in np.flatnonzero(fit.outliers)}) == [3, 8]
    np.testing.assert_allclose(fit.pose, HAND_EYE if wrist else FRONT, atol=0.01)


def test_mirrored_pictures_of_a_board():
    poses, seen = pictures(np.random.default_rng(3), wrist=False)
    flipped = seen * [-1, 1] + [640, 0]
    mirrored = type(CAMERA)(
        CAMERA.intrinsics * [[1, 1, 1]] + [[0, 0, 640 - 2 * 330], [0, 0, 0], [0, 0, 0]], 480, 640
    )
    fit = solve_board(BOARD.corners, flipped, poses, mirrored, wrist=False, mirrored=True)
    np.testing.assert_allclose(fit.pose, FRONT, atol=1e-6)


@pytest.mark.parametrize(
    ("count", "turn", "sentence"),
    [
        (2, 0.35, "at least 3 pictures, got 2"),
        (8, (0, 0, 0.4), "about one axis"),
        (8, 0.001, "hardly turned"),
    ],
)
def test_pictures_from_which_no_pose_follows(count, turn, sentence):
    poses, seen = pictures(np.random.default_rng(4), False, count, turn)
    with pytest.raises(InputError, match=sentence):
        solve_board(BOARD.corners, seen, poses, CAMERA, wrist=False)


def test_pictures_that_do_not_belong_to_the_poses_are_refused():
    poses, seen = pictures(np.random.default_rng(5), False)
    with pytest.raises(InputError, match="12 pictures fit one pose of the camera"):
        solve_board(BOARD.corners, seen[::-1], poses, CAMERA, wrist=False)


@pytest.mark.parametrize(
    ("board", "sentence"),
    [((2, 5, 0.03), "3 x 3 inner corners"), ((7, 5, 0.03), "upside down"), ((8, 5, 30.0), "give meters")],
)
def test_boards_that_cannot_be_used(board, sentence):
    with pytest.raises(InputError, match=sentence):
        Chessboard(*board)


@pytest.mark.parametrize(
    "turn", [(0, 0, 0), (0.2, 0.3, 0.5), (0.3, -0.2, 1.6), (-0.1, 0.2, 3.0), (0.1, 0.3, -2.0)]
)
def test_opencv_finds_the_corners_in_their_order_however_the_board_is_turned(turn):
    pytest.importorskip("cv2", exc_type=ImportError)
    board = pose_matrix(np.array([0.0, 0.0, 0.45]), rotation(turn))
    board[:3, 3] -= board[:3, :3] @ BOARD.corners.mean(axis=0)
    expected, _ = project(transform(board, BOARD.corners), CAMERA.intrinsics, np.eye(4))
    found = BOARD.find(drawn(inverse(board)))
    np.testing.assert_allclose(found, expected, atol=0.4)
    assert np.abs((found - expected).mean(axis=0)).max() < 0.05  # no half pixel is lost


def test_a_picture_without_the_board():
    pytest.importorskip("cv2", exc_type=ImportError)
    assert BOARD.find(np.full((480, 640, 3), 128, np.uint8)) is None

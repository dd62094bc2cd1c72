"""Extrinsics: where a camera stands and looks, as 4 x 4 matrices camera -> robot base, in meters.

The camera's frame is OpenCV's: x right, y down, z forward, as in `camera`. The robot's is its base's, which is
where poses of the gripper are given, too. A matrix takes points of the camera's frame to the robot's:
p_robot = E[:3, :3] p_camera + E[:3, 3], so its last column is where the camera stands.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Real

from spatialvla.errors import InputError

_FARTHEST_CAMERA = 10.0
"""Meters from the base. What stands further away was most likely given in millimeters."""

_FARTHEST_IN_HAND = 0.5
"""Meters from the gripper; a camera that a hand carries is closer."""

_ROUNDING = 1e-3
"""How far a rotation's columns may be from orthonormal: calibrations are written with four digits or more."""

_EXACT = 1e-9
"""How far they are from it that are left as they are."""

_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])
_HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


def check_extrinsics(matrix: np.ndarray) -> Float[np.ndarray, "4 4"]:
    """A camera's pose in the robot's frame as a (4, 4) float64 array, a rounded rotation made orthonormal.

    Raises InputError unless it is a rigid motion: finite, orthonormal, without mirroring, in meters.
    """
    return _rigid(matrix, "Extrinsics", _FARTHEST_CAMERA, "the robot's base")


def check_picture_pose(matrix: np.ndarray) -> Float[np.ndarray, "4 4"]:
    """What takes points that were back-projected by K to the robot's frame, as `check_extrinsics`.

    It mirrors (determinant −1) where the picture is flipped left to right, see `mirror_extrinsics`. Raises InputError.
    """
    pose = _numbers(matrix, "Extrinsics")
    if pose.shape == (4, 4) and np.isfinite(pose).all() and np.linalg.det(pose[:3, :3]) < 0:
        return mirror_extrinsics(check_extrinsics(mirror_extrinsics(pose)))
    return check_extrinsics(pose)


def check_hand_eye(matrix: np.ndarray) -> Float[np.ndarray, "4 4"]:
    """A wrist camera's pose in the gripper's frame, as `check_extrinsics`. Raises InputError."""
    return _rigid(matrix, "A hand-eye transform", _FARTHEST_IN_HAND, "the gripper")


def check_gripper_pose(matrix: np.ndarray) -> Float[np.ndarray, "4 4"]:
    """The gripper's pose in the robot's frame, gripper -> base, as `check_extrinsics`. Raises InputError."""
    return _rigid(matrix, "A gripper's pose", _FARTHEST_CAMERA, "the robot's base")


def wrist_extrinsics(
    gripper_pose: Real[np.ndarray, "*steps 4 4"], hand_eye: Real[np.ndarray, "4 4"]
) -> Float[np.ndarray, "*steps 4 4"]:
    """Extrinsics of a camera that the gripper carries: E = gripper_pose · hand_eye.

    gripper_pose: gripper -> robot base, in meters, for each step. The gripper's frame is the one whose pose the
    robot reports; it need not be the camera's or the flange's, but has to be the one that hand_eye belongs to.
    hand_eye: camera -> gripper, in meters, constant, with the camera's axes x right, y down, z forward.
    Raises InputError where one of them is no rigid motion in meters.
    """
    poses = np.asarray(gripper_pose, np.float64)
    if poses.ndim < 2 or poses.shape[-2:] != (4, 4):
        raise InputError(f"A gripper's pose must be a 4x4 matrix, got shape {poses.shape}.")
    checked = poses.reshape(-1, 4, 4).copy()
    for row in np.flatnonzero(~_exactly_rigid(checked, _FARTHEST_CAMERA)):
        checked[row] = check_gripper_pose(checked[row])
    extrinsics: np.ndarray = checked.reshape(poses.shape) @ check_hand_eye(hand_eye)
    return extrinsics


def pose_matrix(
    position: Real[np.ndarray, "*steps 3"], rotation: Real[np.ndarray, "*steps 3 3"]
) -> Float[np.ndarray, "*steps 4 4"]:
    """Poses as 4 x 4 matrices. position: meters. rotation: matrices, as `rotations.matrices` gives them."""
    pose = np.zeros((*np.shape(position)[:-1], 4, 4))
    pose[..., :3, :3], pose[..., :3, 3], pose[..., 3, 3] = rotation, position, 1
    return pose


def inverse(pose: Real[np.ndarray, "*steps 4 4"]) -> Float[np.ndarray, "*steps 4 4"]:
    """The way back of a rigid motion, mirrored or not: camera -> base becomes base -> camera."""
    turned = np.swapaxes(pose[..., :3, :3], -1, -2)
    return pose_matrix(-(turned @ pose[..., :3, 3:])[..., 0], turned)


def transform(
    pose: Real[np.ndarray, "*#steps 4 4"], points: Real[np.ndarray, "*#steps N 3"]
) -> Float[np.ndarray, "*steps N 3"]:
    """Points of the frame that `pose` leads from, in the frame it leads to; meters."""
    moved: np.ndarray = points @ np.swapaxes(pose[..., :3, :3], -1, -2) + pose[..., None, :3, 3]
    return moved


def project(
    points: Real[np.ndarray, "N 3"], intrinsics: Real[np.ndarray, "3 3"], extrinsics: Real[np.ndarray, "4 4"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
    """Where points of the robot's frame are seen: pixels (N, 2) and depths (N,) in meters along the axis.

    The origin is the picture's top left corner. Points may be seen outside the picture. Those that are not in
    front of the camera (depth 0 or less) have the pixel NaN.
    """
    in_camera = transform(inverse(extrinsics), points)
    depth = in_camera[:, 2]
    front = np.where(depth > 0, depth, np.nan)
    return (in_camera @ np.asarray(intrinsics)[:2].T) / front[:, None], depth


def mirror_extrinsics(extrinsics: Real[np.ndarray, "*steps 4 4"]) -> Float[np.ndarray, "*steps 4 4"]:
    """The matrix that takes points of a picture flipped left to right to the robot's frame, and back again.

    The picture's x axis points to the camera's left, so the matrix mirrors: its determinant is −1, and no
    camera can stand so. It is what `LiberoEnv.camera_pose` gives, whose pictures are mirrored.
    """
    mirrored: np.ndarray = extrinsics @ _MIRROR
    return mirrored


def turn_extrinsics(extrinsics: Real[np.ndarray, "*steps 4 4"]) -> Float[np.ndarray, "*steps 4 4"]:
    """Extrinsics of a camera whose pictures are turned by 180°: those of the same camera held upside down."""
    turned: np.ndarray = extrinsics @ _HALF_TURN
    return turned


def _rigid(matrix: np.ndarray, what: str, farthest: float, origin: str) -> Float[np.ndarray, "4 4"]:
    pose = _numbers(matrix, what)
    if pose.shape != (4, 4):
        raise InputError(f"{what} must be a 4x4 matrix, got shape {pose.shape}.")
    if not np.isfinite(pose).all():
        raise InputError(f"{what} must not contain NaN or infinity; pass a calibrated pose.")
    if not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-9):
        if np.allclose(pose[:, 3], [0, 0, 0, 1], atol=1e-9):
            raise InputError(f"{what} must have the position in the last column; transpose the matrix.")
        raise InputError(f"{what} must have the last row 0 0 0 1, got {' '.join(f'{x:g}' for x in pose[3])}.")
    turn = pose[:3, :3]
    error = np.abs(turn.T @ turn - np.eye(3)).max()
    if error > _ROUNDING:
        raise InputError(
            f"{what} must have a rotation whose columns are orthonormal, without scale; meters are the unit of "
            "both frames."
        )
    if np.linalg.det(turn) < 0:
        raise InputError(
            f"{what} must not mirror (determinant −1); if the pictures are flipped, give the real camera's pose "
            "and say 'mirrored: true'."
        )
    distance = float(np.linalg.norm(pose[:3, 3]))
    if distance > farthest:
        raise InputError(
            f"{what} cannot lead {distance:g} m away from {origin}, {farthest:g} m is the most; pass meters, not "
            "millimeters."
        )
    if error < _EXACT:
        return pose
    left, _, right = np.linalg.svd(turn)
    return pose_matrix(pose[:3, 3], left @ right)


def _numbers(matrix: np.ndarray, what: str) -> np.ndarray:
    try:
        return np.asarray(matrix, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} must be a 4x4 matrix of numbers.") from None


def _exactly_rigid(poses: Float[np.ndarray, "N 4 4"], farthest: float) -> Bool[np.ndarray, " N"]:
    """Which of many poses `_rigid` leaves as they are: it takes a hundred times as long, one after another."""
    turns, last_row = poses[:, :3, :3], [0, 0, 0, 1]
    with np.errstate(invalid="ignore"):
        error = np.abs(turns.swapaxes(1, 2) @ turns - np.eye(3)).max(axis=(1, 2))
        near = np.linalg.norm(poses[:, :3, 3], axis=1) <= farthest
        upright = (np.linalg.det(turns) > 0) & (poses[:, 3] == last_row).all(axis=1)
    exact: np.ndarray = (error < _EXACT) & near & upright
    return exact

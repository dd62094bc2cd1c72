"""Rotations of the notations that datasets use, and the motion from one pose to the next."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

Frame = Literal["base", "tool"]
Notation = Literal["euler", "axis_angle", "quaternion_xyzw", "none"]

SIZES: dict[Notation, int] = {"euler": 3, "axis_angle": 3, "quaternion_xyzw": 4, "none": 0}
"""Numbers of a rotation; `none` is of arms that do not turn their hand."""

PANDA_DOWN = (1.0, 1.0, 0.0)
"""About this axis the fingertips of LIBERO's arm are turned by some half a turn when they point down."""


def matrices(rotations: Float[np.ndarray, "T numbers"], notation: Notation) -> Float[np.ndarray, "T 3 3"]:
    """(T, 0, 3 or 4) -> (T, 3, 3); the identity without a rotation.

    Angles in radians; euler is roll, pitch, yaw of Rz(yaw) Ry(pitch) Rx(roll).
    """
    if notation == "none":
        return np.tile(np.eye(3), (len(rotations), 1, 1))
    if notation == "euler":
        return _from_euler(rotations)
    return _from_quaternion(_quaternion(rotations) if notation == "axis_angle" else rotations)


def euler(rotations: Float[np.ndarray, "T 3 3"]) -> Float[np.ndarray, "T 3"]:
    """(T, 3, 3) -> (T, 3) roll, pitch, yaw in radians.

    At a pitch of ±π/2, where they are not unique, yaw is 0.
    """
    pitch = np.arcsin(np.clip(-rotations[:, 2, 0], -1, 1))
    locked = np.abs(rotations[:, 2, 0]) > 1 - 1e-12
    roll = np.where(
        locked,
        np.arctan2(-rotations[:, 1, 2], rotations[:, 1, 1]),
        np.arctan2(rotations[:, 2, 1], rotations[:, 2, 2]),
    )
    yaw = np.where(locked, 0.0, np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0]))
    return np.stack([roll, pitch, yaw], axis=1)


def notated(rotations: Float[np.ndarray, "T 3 3"], notation: Notation) -> Float[np.ndarray, "T numbers"]:
    """(T, 3, 3) -> (T, 0, 3 or 4): the inverse of `matrices`. Quaternions have w >= 0; none forgets the rotation."""
    if notation == "none":
        return np.empty((len(rotations), 0))
    if notation == "euler":
        return euler(rotations)
    quaternions = _to_quaternion(rotations)
    if notation == "quaternion_xyzw":
        return quaternions
    vector = quaternions[:, :3]
    sine = np.linalg.norm(vector, axis=1)
    angle = 2 * np.arctan2(sine, quaternions[:, 3])
    return np.asarray(vector * np.where(sine < 1e-12, 2.0, angle / np.maximum(sine, 1e-12))[:, None])


def towards(
    axis: tuple[float, float, float], rotation_vector: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3"]:
    """The one of a rotation's two vectors that points towards an axis; it may be longer than a half turn.

    The shorter one, which most programs give, jumps to its opposite where the angle passes half a turn.
    """
    vector = np.asarray(rotation_vector, np.float64)
    if vector @ np.asarray(axis) >= 0:
        return vector
    return np.asarray(vector * (1 - 2 * np.pi / np.linalg.norm(vector)))


def motion(
    positions: Float[np.ndarray, "T 3"],
    rotations: Float[np.ndarray, "T 3 3"],
    next_positions: Float[np.ndarray, "T 3"],
    next_rotations: Float[np.ndarray, "T 3 3"],
    frame: Frame = "base",
) -> Float[np.ndarray, "T 6"]:
    """The motion between poses: Δx Δy Δz Δroll Δpitch Δyaw.

    positions: meters. positions, rotations: of the tool in the base's frame.
    frame: in whose axes. In the base's, Δ = p' − p and R' = ΔR R; in the tool's, p' = p + R Δ and R' = R ΔR.
    """
    moved = next_positions - positions
    if frame == "base":
        turned = next_rotations @ rotations.transpose(0, 2, 1)
    else:
        moved = np.einsum("tji,tj->ti", rotations, moved)
        turned = rotations.transpose(0, 2, 1) @ next_rotations
    return np.concatenate([moved, euler(turned)], axis=1)


def interpolated(
    times: Float[np.ndarray, " N"], quaternions: Float[np.ndarray, "N 4"], at: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T 4"]:
    """Quaternions at ascending `times`, along the shortest way (slerp), at other times.

    Before the first and after the last time they stand still.
    """
    later = np.clip(np.searchsorted(times, at, side="right"), 1, max(len(times) - 1, 1)) % len(times)
    earlier = np.maximum(later - 1, 0)
    span = np.maximum(times[later] - times[earlier], 1e-12)
    share = np.clip((at - times[earlier]) / span, 0, 1)[:, None]
    unit = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    start, end = unit[earlier], unit[later]
    cosine = np.sum(start * end, axis=1, keepdims=True)
    end, cosine = np.where(cosine < 0, -end, end), np.abs(cosine)
    angle = np.arccos(np.clip(cosine, 0, 1))
    sine = np.where(angle < 1e-6, 1.0, np.sin(angle))
    weights = [np.where(angle < 1e-6, w, np.sin(w * angle) / sine) for w in (1 - share, share)]
    mixed = weights[0] * start + weights[1] * end
    return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))


def _quaternion(axis_angle: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T 4"]:
    """Rotation vectors (T, 3) -> (T, 4) x y z w."""
    half = np.linalg.norm(axis_angle, axis=1, keepdims=True) / 2
    # sin(half) / (2 half) without the division by 0: NumPy's sinc is that of half / π.
    return np.concatenate([axis_angle * np.sinc(half / np.pi) / 2, np.cos(half)], axis=1)


def _to_quaternion(rotations: Float[np.ndarray, "T 3 3"]) -> Float[np.ndarray, "T 4"]:
    """x y z w by the largest eigenvector of Bar-Itzhack's matrix, which no rotation makes ill-conditioned."""
    r = np.moveaxis(rotations, 0, 2)
    rows = [
        [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
        [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
        [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
    ]
    _, vectors = np.linalg.eigh(np.moveaxis(np.array(rows), 2, 0))
    found = vectors[:, :, -1]
    return np.asarray(np.where(found[:, 3:] < 0, -found, found))


def _from_quaternion(quaternions: Float[np.ndarray, "T 4"]) -> Float[np.ndarray, "T 3 3"]:
    x, y, z, w = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).astype(np.float64).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def _from_euler(angles: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T 3 3"]:
    (sr, sp, sy), (cr, cp, cy) = np.sin(angles).astype(np.float64).T, np.cos(angles).astype(np.float64).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), 2, 0)

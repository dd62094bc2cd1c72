"""A camera's pose from a table: of points that it saw, or of pictures in which it saw a printed board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialvla.calibration.board_solver import solve_board
from spatialvla.calibration.chessboard import Chessboard, read_picture
from spatialvla.calibration.correspondences import Correspondences
from spatialvla.calibration.drawing import Scene
from spatialvla.calibration.pose_solver import PoseFit, solve_pose
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import inverse, transform

_MOST_SCENES = 12


@dataclass(frozen=True)
class Calibrated:
    """fit: of all points. used: what was fitted, in words. outliers: rows or pictures left out, with their errors.

    unseen: pictures without the board. scenes: the pictures with their points, or one for all points.
    """

    fit: PoseFit
    used: str
    outliers: Sequence[str]
    scenes: Sequence[Scene]
    unseen: Sequence[str] = ()


def from_points(
    table: Correspondences, camera: Camera, wrist: bool, mirrored: bool, picture: Path | None
) -> Calibrated:
    """Of points whose positions in the robot's frame are known, or of the gripper itself where there are none.

    picture: to draw on, where the table names none. Raises InputError for missing columns and what
    `solve_pose` refuses.
    """
    seen = _seen(table, camera)
    if wrist:
        if table.gripper_poses is None or table.points is None:
            raise InputError(
                "A camera in the hand needs u v, x y z of a point that stands still, and the gripper's pose, in each "
                "row; add the columns, or leave out --wrist."
            )
        points = transform(inverse(table.gripper_poses), table.points[:, None])[:, 0]
    elif table.points is not None:
        points = table.points
    elif table.gripper_poses is not None:
        points = table.gripper_poses[:, :3, 3]
    else:
        raise InputError(
            "The table needs columns x y z of what is seen, meters in the robot's frame; add them."
        )
    fit = solve_pose(points, seen, camera, mirrored)
    wrong = [
        f"{table.names[number]} ({fit.errors[number]:.1f} px)" for number in np.flatnonzero(fit.outliers)
    ]
    return Calibrated(fit, f"{len(seen)} points", wrong, _scenes(table, seen, fit, camera, picture))


def from_board(
    table: Correspondences, board: Chessboard, camera: Camera, wrist: bool, mirrored: bool
) -> Calibrated:
    """Of pictures of a board, each with the gripper's pose when it was taken.

    Raises InputError for missing columns, pictures that cannot be read, and what `solve_board` refuses.
    """
    if table.pictures is None or table.gripper_poses is None:
        raise InputError("With --board the table needs columns picture and the gripper's pose; add them.")
    size = (camera.height, camera.width)
    found = board.find_all(table.pictures, size, mirrored)
    if not found:
        raise InputError(
            f"No picture shows the whole board of {board.columns} x {board.rows} inner corners; look whether --board "
            "counts where four squares meet."
        )
    numbers = list(found)
    corners = np.array([found[number] for number in numbers])
    fit = solve_board(board.corners, corners, table.gripper_poses[numbers], camera, wrist, mirrored)
    outliers: list[str] = []
    scenes: list[Scene] = []
    for number, seen, reprojected, errors, out in zip(
        numbers,
        corners,
        fit.reprojected.reshape(corners.shape),
        fit.errors.reshape(corners.shape[:2]),
        fit.outliers.reshape(corners.shape[:2]),
        strict=True,
    ):
        path = table.pictures[number]
        if out.all():
            outliers.append(f"{path.name} ({errors.mean():.1f} px)")
        if len(scenes) < _MOST_SCENES:
            scenes.append(Scene(size, seen, reprojected, out, [""] * len(seen), read_picture(path, size)))
    unseen = [path.name for number, path in enumerate(table.pictures) if number not in found]
    return Calibrated(
        fit, f"{corners[..., 0].size} corners in {len(numbers)} pictures", outliers, scenes, unseen
    )


def _seen(table: Correspondences, camera: Camera) -> np.ndarray:
    """The pixels, each in the picture."""
    if table.seen is None:
        raise InputError("The table needs columns u v, in pixels of the picture; add them, or use --board.")
    outside = ((table.seen < 0) | (table.seen > [camera.width, camera.height])).any(axis=1)
    if outside.any():
        number = int(np.flatnonzero(outside)[0])
        u, v = table.seen[number]
        raise InputError(
            f"The point of {table.names[number]} was seen at ({u:g}, {v:g}), outside pictures of {camera.width} x "
            f"{camera.height} pixels; look whether --size is that of the pictures."
        )
    return table.seen


def _scenes(
    table: Correspondences, seen: np.ndarray, fit: PoseFit, camera: Camera, picture: Path | None
) -> Sequence[Scene]:
    """One for each picture that the table names, the first of them, or one for all points."""
    size = (camera.height, camera.width)
    of_row = list(table.pictures) if table.pictures is not None else [picture] * len(seen)
    scenes = []
    for path in list(dict.fromkeys(of_row))[:_MOST_SCENES]:
        rows = [number for number, other in enumerate(of_row) if other == path]
        names = [table.names[number] for number in rows]
        background = None if path is None else read_picture(path, size)
        scenes.append(Scene(size, seen[rows], fit.reprojected[rows], fit.outliers[rows], names, background))
    return scenes

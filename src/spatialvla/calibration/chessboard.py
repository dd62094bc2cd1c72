"""Corners of printed chessboards in pictures, which OpenCV finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from spatialvla.common.extras import needs_extra
from spatialvla.common.pictures import open_picture, to_rgb
from spatialvla.errors import InputError


@dataclass(frozen=True)
class Chessboard:
    """columns, rows: inner corners, where four squares meet. square: the side of a square in meters.

    Raises InputError for a board that looks the same upside down, and for squares of another unit.
    """

    columns: int
    rows: int
    square: float

    def __post_init__(self) -> None:
        if min(self.columns, self.rows) < 3:
            raise InputError(f"A board has 3 x 3 inner corners or more, not {self.columns} x {self.rows}.")
        if (self.columns + self.rows) % 2 == 0:
            raise InputError(
                f"A board of {self.columns} x {self.rows} inner corners looks the same upside down; use one with an "
                "even number of them along one side and an odd number along the other."
            )
        if not 0.001 <= self.square <= 0.5:
            raise InputError(
                f"Squares of {self.square:g} m are none of a board's; give meters, such as 0.025."
            )

    @property
    def corners(self) -> Float[np.ndarray, "M 3"]:
        """Row by row, in meters: x along the columns, y along the rows, z = 0."""
        y, x = np.indices((self.rows, self.columns))
        return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1) * self.square

    def find(self, picture: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "M 2"] | None:
        """Pixels of the corners in the order of `corners`, seen from the printed side; None where it is not seen.

        Pixels have their origin at the picture's corner, so they are half a pixel more than OpenCV's.
        Raises InputError where OpenCV is not installed.
        """
        with needs_extra("calibrate", "Finding a board"):
            import cv2
        gray = np.ascontiguousarray(picture @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
        found, corners = cv2.findChessboardCorners(gray, (self.columns, self.rows))
        if not found:
            return None
        criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-3)
        corners = cv2.cornerSubPix(gray, corners, _window(corners.reshape(-1, 2)), (-1, -1), criteria)
        grid = np.asarray(corners, np.float64).reshape(self.rows, self.columns, 2)
        return self._ordered(grid, gray).reshape(-1, 2) + 0.5

    def find_all(
        self, pictures: Sequence[Path], size: tuple[int, int], mirrored: bool = False
    ) -> dict[int, np.ndarray]:
        """The corners (M, 2) in those of the pictures that show the board, by the pictures' numbers.

        size: (height, width) that all have. mirrored: they are flipped left to right.
        Raises InputError for files that are no such pictures.
        """
        found = {}
        for number, path in enumerate(pictures):
            picture = read_picture(path, size)
            corners = self.find(picture[:, ::-1] if mirrored else picture)
            if corners is not None:
                found[number] = corners * [-1, 1] + [size[1], 0] if mirrored else corners
        return found

    def _ordered(self, grid: np.ndarray, gray: np.ndarray) -> np.ndarray:
        """The grid (rows, columns, 2) as the printed side has it, with the dark one of the end squares first."""
        along, down = grid[0, -1] - grid[0, 0], grid[-1, 0] - grid[0, 0]
        if along[0] * down[1] - along[1] * down[0] < 0:
            grid = grid[:, ::-1]
        first, last = (_brightness(gray, square) for square in (grid[:2, :2], grid[-2:, -2:]))
        return grid if first < last else grid[::-1, ::-1]


def read_picture(path: Path, size: tuple[int, int]) -> np.ndarray:
    """RGB (H, W, 3). Raises InputError where the file is no picture, or has another size (height, width)."""
    try:
        picture = np.asarray(to_rgb(open_picture(path)))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no picture that can be read ({error}).") from None
    if picture.shape[:2] != size:
        raise InputError(
            f"{path} has {picture.shape[1]} x {picture.shape[0]} pixels, but K is for {size[1]} x {size[0]}; take "
            "pictures in the resolution that K belongs to."
        )
    return picture


def _window(corners: np.ndarray) -> tuple[int, int]:
    """Half the width, in pixels, of where a corner's edges are looked at: less than half a square."""
    apart = np.linalg.norm(np.diff(corners, axis=0), axis=1).min()
    side = int(np.clip(apart / 3, 2, 11))
    return side, side


def _brightness(gray: np.ndarray, square: np.ndarray) -> float:
    """Of the middle of a square with these corners (2, 2, 2)."""
    u, v = square.reshape(-1, 2).mean(axis=0).round().astype(int)
    return float(gray[max(v - 1, 0) : v + 2, max(u - 1, 0) : u + 2].mean())

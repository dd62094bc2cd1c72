"""Whether a camera still stands where its calibration says: is the gripper seen where it should be?

How the gripper looks is not known, only where it is. Pictures are cut out around the pixel where the calibration
sees its fingertips: what stays the same in these cuttings while the table passes below moves as the gripper does.
This is the arm's silhouette, and it ends at the fingertips, from which the hand leads upwards. Where a hand fits into
the silhouette best is where the gripper is seen. The hand is taken to point down.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real, UInt8

from spatialvla.geometry.extrinsics import project

TOLERANCE = 0.08
"""Meters between where the gripper is seen and where it should be, from which on a camera has moved."""

CLEAR = 0.45
"""The contrast from which on a sighting is believed; tracks of something else stay below in 19 of 20 cases."""

_FARTHEST, _GRID = 0.36, 0.015
"""Meters around the gripper that are searched, and the distance of two points looked at."""

_HAND_START, _HAND_END, _HAND_RADIUS, _BESIDE = 0.03, 0.1, 0.07, 0.08
"""Meters: the hand is all within a radius of a line above the fingertips, and so much is looked at beside it."""

_ASIDE = 1 / 3
"""The sine of the angle between the plumb line and the direction of view from which on the arm is seen above."""

_TIE = 0.05
"""Of the contrast: where the hand fits as well, it may be as well."""

_POINTS = _GRID * np.arange(-round(_FARTHEST / _GRID), round(_FARTHEST / _GRID) + 1)

_IN_VIEW = 0.5
"""Of the hand, and of what is beside it."""

_UP = np.array([0.0, 0.0, 1.0])

_FEWEST, _MOST = 12, 48
"""Pictures that are enough, and that are kept."""

_STEP = 0.01
"""Meters between the gripper's positions in two pictures that are kept."""

_SHORTEST_TRACK = 0.18
"""Meters, across the direction of view: the root mean square distance of the positions from their mean, doubled."""

_SIDE = 128
"""Pixels; larger pictures are shrunk to less than twice as many."""

_NOISE, _STRONGEST = 4.0, 40.0
"""Gray levels: differences below are no signal, and those above count no more."""


@dataclass(frozen=True)
class Sighting:
    """Where the gripper was seen over a stretch of motion, relative to where the calibration says.

    offset: (2,) meters to the right and down in the picture, at the gripper's depth. pixels: (2,) the same in pixels.
    contrast: how clearly something moved as the gripper did, 0 (nothing) to 1. pictures: how many were looked at.
    """

    offset: Float[np.ndarray, " 2"]
    pixels: Float[np.ndarray, " 2"]
    contrast: float
    pictures: int

    @property
    def distance(self) -> float:
        """Meters between where the gripper is seen and where it should be."""
        return float(np.linalg.norm(self.offset))

    @property
    def clear(self) -> bool:
        """Whether this was the gripper; else nothing moved as it did, or something hid it."""
        return self.contrast >= CLEAR

    @property
    def drifted(self) -> bool:
        """Whether the camera stands elsewhere than the calibration says, or the calibration was never right."""
        return self.clear and self.distance > TOLERANCE

    def __str__(self) -> str:
        """`13 cm (21 pixels) to the right and below`."""
        right, down = self.offset
        sideways = "" if abs(right) < self.distance / 3 else "to the right" if right > 0 else "to the left"
        upwards = "" if abs(down) < self.distance / 3 else "below" if down > 0 else "above"
        way = " and ".join(word for word in (sideways, upwards) if word)
        return f"{100 * self.distance:.0f} cm ({np.linalg.norm(self.pixels):.0f} pixels) {way}"


class DriftDetector:
    """Watches one camera that stands still, picture by picture; the server and `data inspect` have one for each.

    It keeps a few dozen small pictures. A camera that the gripper carries sees it always at the same pixel, so of
    cameras whose extrinsics change nothing is ever said.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets what was seen: the camera has been calibrated, or the robot is another."""
        self._pictures: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self._camera: tuple[np.ndarray, np.ndarray] | None = None
        self._shape: tuple[int, ...] = ()

    def add(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        position: Real[np.ndarray, "3"],
        intrinsics: Real[np.ndarray, "3 3"],
        extrinsics: Real[np.ndarray, "4 4"],
    ) -> Sighting | None:
        """One picture, and what `find_gripper` says of a stretch of motion whenever one is complete.

        position: of the gripper in the robot's frame, in meters, when the picture was taken.
        extrinsics: as `find_gripper` takes them. Pictures in which the gripper stands still are passed over.
        """
        camera = (np.asarray(intrinsics, np.float64), np.asarray(extrinsics, np.float64))
        known = self._camera
        same = known is not None and all(
            np.allclose(one, other, atol=1e-6) for one, other in zip(camera, known, strict=True)
        )
        if not same or image.shape != self._shape:
            self.reset()
            self._camera, self._shape = camera, image.shape
        position = np.asarray(position, np.float64)
        if self._positions and np.linalg.norm(position - self._positions[-1]) < _STEP:
            return None
        self._pictures.append(_shrunk(image[None])[0])
        self._positions.append(position)
        return self.sighting() if len(self._pictures) == _MOST else None

    def sighting(self) -> Sighting | None:
        """What `find_gripper` says of the pictures since the last time, which are then forgotten."""
        if self._camera is None:
            return None
        found = _find(np.array(self._pictures), np.array(self._positions), *self._camera, self._shape[1])
        self.reset()
        return found


def find_gripper(
    images: UInt8[np.ndarray, "T H W 3"],
    positions: Real[np.ndarray, "T 3"],
    intrinsics: Real[np.ndarray, "3 3"],
    extrinsics: Real[np.ndarray, "4 4"],
) -> Sighting | None:
    """Where a camera that stands still sees the gripper, relative to where its calibration says.

    positions: of the fingertips in the robot's frame, in meters, when each picture was taken.
    intrinsics: K in pixels of the pictures. extrinsics: takes points back-projected by K to the robot's frame:
    camera -> robot base, mirrored (determinant −1) where the pictures are.
    None where the gripper moves too little, or out of the picture, to say anything.
    """
    positions = np.asarray(positions, np.float64)
    kept: list[int] = []
    for step, position in enumerate(positions):
        if not kept or np.linalg.norm(position - positions[kept[-1]]) >= _STEP:
            kept.append(step)
    if len(kept) > _MOST:
        kept = [kept[number] for number in np.linspace(0, len(kept) - 1, _MOST).round().astype(int)]
    return _find(_shrunk(images[kept]), positions[kept], intrinsics, np.asarray(extrinsics), images.shape[2])


def _find(
    gray: UInt8[np.ndarray, "T h w"],
    positions: Float[np.ndarray, "T 3"],
    intrinsics: Real[np.ndarray, "3 3"],
    extrinsics: Real[np.ndarray, "4 4"],
    side: int,
) -> Sighting | None:
    """As `find_gripper`, of small gray pictures. side: the width that `intrinsics` are of."""
    factor = _factor(side)
    pixels, depth = project(positions, np.diag([1 / factor, 1 / factor, 1]) @ intrinsics, extrinsics)
    with np.errstate(invalid="ignore"):
        seen = (pixels >= 0).all(axis=1) & (pixels < gray.shape[:0:-1]).all(axis=1)
    if seen.sum() < _FEWEST or _extent(positions[seen] @ extrinsics[:3, :2]) < _SHORTEST_TRACK:
        return None
    scale = np.diag(intrinsics)[:2] / factor / depth[seen, None]
    moving = _moves_along(gray[seen].astype(np.float32), pixels[seen], scale)
    fits = _fits(moving, *_hand(_UP @ extrinsics[:3, :2]))
    best = float(fits.max())
    rows, columns = np.nonzero(fits >= best - _TIE)
    offset = np.array([_POINTS[columns].mean(), _POINTS[rows].mean()])
    return Sighting(offset, offset * factor * scale.mean(axis=0), float(np.clip(best, 0, 1)), int(seen.sum()))


def _extent(positions: Float[np.ndarray, "T 2"]) -> float:
    return 2 * float(np.sqrt(positions.var(axis=0).sum()))


def _factor(side: int) -> int:
    return max(side // _SIDE, 1)


def _shrunk(images: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T h w"]:
    """Gray pictures, each pixel the mean of a square; what is left over at the right and below is cut off."""
    factor = _factor(images.shape[2])
    height, width = (side // factor for side in images.shape[1:3])
    squares = images[:, : height * factor, : width * factor].reshape(
        len(images), height, factor, width, factor, 3
    )
    means: np.ndarray = squares.mean(axis=(2, 4, 5), dtype=np.float32)
    return means.astype(np.uint8)


def _moves_along(
    gray: Float[np.ndarray, "T H W"], pixels: Float[np.ndarray, "T 2"], scale: Float[np.ndarray, "T 2"]
) -> Float[np.ndarray, "N N"]:
    """How much better each point of a grid around `pixels` is explained by moving along with them than by standing
    still: −1 to 1, NaN where it is out of the picture half of the time. scale: pixels a meter, right and down.
    """
    still = np.median(gray, axis=0)
    right, down = np.meshgrid(_POINTS, _POINTS)
    columns = np.floor(pixels[:, 0, None, None] + right * scale[:, 0, None, None]).astype(int)
    rows = np.floor(pixels[:, 1, None, None] + down * scale[:, 1, None, None]).astype(int)
    height, width = gray.shape[1:]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    columns, rows = columns.clip(0, width - 1), rows.clip(0, height - 1)
    values = np.where(inside, gray[np.arange(len(gray))[:, None, None], rows, columns], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # points that are never inside
        along = np.nanmean(np.minimum(np.abs(values - np.nanmedian(values, axis=0)), _STRONGEST), axis=0)
        apart = np.nanmean(np.minimum(np.abs(values - still[rows, columns]), _STRONGEST), axis=0)
    return np.where(inside.mean(axis=0) > 0.5, (apart - along) / (apart + along + _NOISE), np.nan)


def _hand(up: Float[np.ndarray, " 2"]) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """Which points around the fingertips belong to a hand that leads from there upwards, and which are beside it.

    up: (2,) a meter upwards, as the picture's plane has it. Points above the hand belong to neither, since the arm
    goes on there; from above, nothing of it is seen.
    """
    reach = int(np.ceil((_HAND_END + _HAND_RADIUS + _BESIDE) / _GRID))
    points = np.stack(np.meshgrid(*[_GRID * np.arange(-reach, reach + 1)] * 2), axis=-1)
    height = float(np.linalg.norm(up))
    along = points @ up / max(height, 1e-6)
    nearest = along.clip(_HAND_START * height, _HAND_END * height)
    distance = np.linalg.norm(points - nearest[..., None] * up / max(height, 1e-6), axis=-1)
    above = (along > _HAND_END * height) & (height > _ASIDE)
    beside = (distance > _HAND_RADIUS) & (distance <= _HAND_RADIUS + _BESIDE) & ~above
    return (distance <= _HAND_RADIUS).astype(float), beside.astype(float)


def _fits(
    moving: Float[np.ndarray, "N N"], hand: Float[np.ndarray, "n n"], beside: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, "N N"]:
    """How much more the hand moves along than what is beside it, with the fingertips at each point of the grid.

    −1 where too much of either is out of the picture.
    """
    known = np.isfinite(moving)
    means, shares = [], []
    for part in (hand, beside):
        weight = _sums(known.astype(float), part)
        means.append(_sums(np.where(known, moving, 0), part) / np.maximum(weight, 1))
        shares.append(weight / part.sum())
    return np.where(np.minimum(*shares) >= _IN_VIEW, means[0] - means[1], -1)


def _sums(values: Float[np.ndarray, "N N"], part: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "N N"]:
    """The sum of the values under a part whose middle is at each point; what is outside of the grid is 0."""
    size, middle = len(values) + len(part), len(part) // 2
    spectra = np.fft.rfft2(values, (size, size)) * np.fft.rfft2(part[::-1, ::-1], (size, size))
    sums: np.ndarray = np.fft.irfft2(spectra, (size, size))[middle:, middle:]
    return sums[: len(values), : len(values)]

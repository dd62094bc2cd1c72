"""The pinhole camera: what it saw, and intrinsics that follow every resize and crop.

Pixel coordinates have their origin at the image's top left corner, so the first pixel's center is (0.5, 0.5).
The camera frame is x right, y down, z forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Real, UInt8
from PIL import Image

from spatialvla.common.pictures import to_rgb
from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import check_picture_pose

SMALLEST_DEPTH = 1e-3
"""Meters; float16 keeps it apart from 0."""

LARGEST_DEPTH = 100.0
"""Meters. No sensor of a robot's sees further; what seems to is in other units, most often millimeters."""

_NEAREST_VIEW = 0.01
"""Meters; a camera all of whose readings are nearer sees nothing."""

_FOCAL_LENGTHS = (0.1, 100.0)
"""Of the picture's side: fields of view of 157° and of half a degree."""

_PRINCIPAL_POINT = (-0.5, 1.5)
"""Of the picture's side. A crop may lie beside the optical axis; a K of another size lies further off."""

_SAME_ASPECT = 0.01
"""Of the sides' ratio. Sizes are whole pixels, and no crop that moves things is as small."""

_ALIGNED_ASPECT = 0.05
"""Of the sides' ratio of a depth map and its picture. Sensors measure in sizes of their own, such as 848 x 480 beside
1280 x 720."""

_MOST_SKEW = 0.2
"""Of the focal length. Pixels are rectangular; calibrations find a thousandth."""


def check_intrinsics(
    intrinsics: np.ndarray | Sequence[Sequence[float]], size: tuple[int, int] | None = None
) -> Float[np.ndarray, "3 3"]:
    """K as a (3, 3) float64 array.

    size: (height, width) in pixels of the picture that K belongs to, where it is known.
    Raises InputError unless K is finite, invertible, upper triangular and ends in (0, 0, 1), and where no
    camera that takes pictures of this size has such a K.
    """
    try:
        matrix = np.asarray(intrinsics, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("Intrinsics must be a 3x3 matrix of numbers.") from None
    if matrix.shape != (3, 3):
        raise InputError(f"Intrinsics must be a 3x3 matrix, got shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise InputError("Intrinsics contain NaN or infinity; pass the camera's calibrated K.")
    if not np.array_equal(matrix[2], [0.0, 0.0, 1.0]) or matrix[1, 0] != 0:
        raise InputError("Intrinsics must have the form [[fx, s, cx], [0, fy, cy], [0, 0, 1]].")
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise InputError(
            f"Intrinsics are singular: the focal lengths must be positive, got fx = {matrix[0, 0]:g}, "
            f"fy = {matrix[1, 1]:g}."
        )
    if size is not None:
        _check_plausible(matrix, *size)
    return matrix


def _check_plausible(K: np.ndarray, height: int, width: int) -> None:
    """Raises InputError where K is no camera's whose pictures have this size."""
    for axis, side, focal, center in (("x", width, K[0, 0], K[0, 2]), ("y", height, K[1, 1], K[1, 2])):
        low, high = _FOCAL_LENGTHS
        if not low * side <= focal <= high * side:
            raise InputError(
                f"A focal length of f{axis} = {focal:g} pixels cannot be that of a picture {side} pixels long "
                f"({low * side:g} to {high * side:g} can); pass the camera's calibrated K in pixels."
            )
        low, high = _PRINCIPAL_POINT
        if not low * side <= center <= high * side:
            raise InputError(
                f"A principal point at c{axis} = {center:g} is far outside a picture {side} pixels long; "
                "pass K in pixels of the picture as it is sent."
            )
    if abs(K[0, 1]) > _MOST_SKEW * K[0, 0]:
        raise InputError(
            f"A skew of {K[0, 1]:g} is too large for a focal length of {K[0, 0]:g}; pass the camera's K."
        )


def resize_intrinsics(
    intrinsics: Real[np.ndarray, "*cameras 3 3"], old_size: tuple[int, int], new_size: tuple[int, int]
) -> Float[np.ndarray, "*cameras 3 3"]:
    """K of an image resized from `old_size` to `new_size`, both (height, width) in pixels."""
    scale = np.diag([new_size[1] / old_size[1], new_size[0] / old_size[0], 1.0])
    resized: np.ndarray = scale @ intrinsics
    return resized


def crop_intrinsics(intrinsics: Real[np.ndarray, "3 3"], left: float, top: float) -> Float[np.ndarray, "3 3"]:
    """K of an image whose first `left` columns and `top` rows were cut off."""
    shift = np.eye(3)
    shift[:2, 2] = -left, -top
    cropped: np.ndarray = shift @ intrinsics
    return cropped


def mirror_intrinsics(intrinsics: Real[np.ndarray, "3 3"], width: float) -> Float[np.ndarray, "3 3"]:
    """K of an image flipped left to right. Its x axis then points to the camera's left: see `mirror_extrinsics`."""
    flip = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]])
    mirrored: np.ndarray = flip @ intrinsics @ np.diag([-1, 1, 1])
    return mirrored


def turn_intrinsics(
    intrinsics: Real[np.ndarray, "3 3"], size: tuple[float, float]
) -> Float[np.ndarray, "3 3"]:
    """K of an image turned by 180°. size: its (height, width) in pixels. See `turn_extrinsics`."""
    turned = np.array(intrinsics, np.float64)
    turned[:2, 2] = [size[1], size[0]] - turned[:2, 2]
    return turned


@dataclass(frozen=True)
class Camera:
    """Intrinsics K of an image of `height` x `width` pixels.

    Raises InputError for a K that no camera with pictures of this size has.
    """

    intrinsics: Real[np.ndarray, "3 3"]
    height: int
    width: int

    def __post_init__(self) -> None:
        if not (self.height >= 1 and self.width >= 1):
            raise InputError(
                f"A camera's pictures have a height and a width in pixels, not {self.height} and {self.width}."
            )
        check_intrinsics(self.intrinsics, (self.height, self.width))

    def has_aspect_of(self, height: int, width: int) -> bool:
        """Whether pictures of this size are no more squeezed or cut on one side than on the other."""
        return abs(width / height / (self.width / self.height) - 1) <= _SAME_ASPECT

    def scaled_to(self, height: int, width: int) -> Float[np.ndarray, "3 3"]:
        """K of the same camera's image resized to another size."""
        return resize_intrinsics(self.intrinsics, (self.height, self.width), (height, width))

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Camera:
        """What `to_json` gives. Raises InputError for intrinsics that cannot be."""
        return cls(np.asarray(entry["intrinsic"], np.float64), entry["height"], entry["width"])

    def to_json(self) -> dict[str, Any]:
        """As processor_config.json holds it, in pixels of `width` x `height`."""
        return {"width": self.width, "height": self.height, "intrinsic": self.intrinsics.tolist()}


@dataclass(frozen=True)
class View:
    """What a camera saw, checked: picture, intrinsics and depth of one field of view, and from where.

    image: RGB. intrinsics: K in pixels of `image`; None where unknown.
    depth: positive meters along the optical axis, in a resolution of its own with the picture's aspect, or a square
    that is squeezed, as `Policy.depth` gives it; None where not measured.
    extrinsics: takes points back-projected by K to the robot's frame, in meters: camera -> robot base, mirrored
    where the picture is; None where unknown.
    """

    image: UInt8[np.ndarray, "H W 3"]
    intrinsics: Float[np.ndarray, "3 3"] | None = None
    depth: Float[np.ndarray, "h w"] | None = None
    extrinsics: Float[np.ndarray, "4 4"] | None = None

    @classmethod
    def of(
        cls,
        image: np.ndarray | Image.Image,
        intrinsics: np.ndarray | None = None,
        depth: np.ndarray | None = None,
        extrinsics: np.ndarray | None = None,
    ) -> View:
        """Images may be PIL images, which are turned as their EXIF says, or uint8 arrays that are gray
        (H, W[, 1]), RGB or RGBA (H, W, 3 or 4). Depth may have holes: 0 where nothing was measured.

        Raises InputError for what is no picture, no camera matrix of such a picture, no depth of it in meters, or no
        camera's pose.
        """
        picture = _rgb(image)
        height, width = picture.shape[:2]
        return cls(
            picture,
            None if intrinsics is None else check_intrinsics(intrinsics, (height, width)),
            None if depth is None else _meters(depth, height, width),
            None if extrinsics is None else check_picture_pose(extrinsics),
        )

    def resized(self, size: int) -> View:
        """The same field of view as a square of `size` pixels.

        Colors take a bicubic filter. Depth takes the nearest pixel: a mean over an edge would invent points
        in mid-air.
        """
        square = (size, size)
        image, intrinsics, depth = self.image, self.intrinsics, self.depth
        if image.shape[:2] != square:
            picture = Image.fromarray(np.ascontiguousarray(image))
            image = np.asarray(picture.resize(square, Image.Resampling.BICUBIC))
            if intrinsics is not None:
                intrinsics = resize_intrinsics(intrinsics, self.image.shape[:2], square)
        if depth is not None and depth.shape != square:
            depth = np.asarray(Image.fromarray(depth).resize(square, Image.Resampling.NEAREST))
        return View(image, intrinsics, depth, self.extrinsics)


def _rgb(image: np.ndarray | Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    try:
        array = np.asarray(image)
    except ValueError:
        raise InputError("Images must have shape (H, W, 3); the rows of this one differ in length.") from None
    if array.dtype != np.uint8:
        raise InputError(f"Images must be uint8, got {array.dtype}; scale to 0..255 and convert.")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise InputError(f"Images must have shape (H, W, 3), got {array.shape}.")
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return array[..., :3]


def _meters(depth: np.ndarray, height: int, width: int) -> Float[np.ndarray, "h w"]:
    """Depth, checked and without holes. height, width: of its picture."""
    try:
        meters = np.asarray(depth)
    except ValueError:
        raise InputError("Depth must be (H, W) floating-point meters; its rows differ in length.") from None
    if meters.ndim != 2 or not np.issubdtype(meters.dtype, np.floating):
        raise InputError(
            f"Depth must be (H, W) floating-point meters, got {meters.dtype} of shape {meters.shape}."
        )
    check_readings(meters)
    if not meters.any():
        raise InputError("Depth has no reading at all, 0 everywhere; leave it out, so that it is estimated.")
    if meters.max() < _NEAREST_VIEW:
        raise InputError(
            f"Depth sees no farther than {meters.max():g} meters, nearer than any scene; pass meters."
        )
    is_square = meters.shape[0] == meters.shape[1]  # as models give it of a picture that they squeezed
    if not is_square and abs(meters.shape[1] / meters.shape[0] / (width / height) - 1) > _ALIGNED_ASPECT:
        raise InputError(
            f"Depth of {meters.shape[1]} x {meters.shape[0]} pixels has another aspect than its picture of {width} x "
            f"{height}; pass depth that shows what the picture does, turned as it is."
        )
    return meters.astype(np.float32) if (meters > 0).all() else fill_holes(meters)


def check_readings(readings: Real[np.ndarray, "*frames H W"]) -> Real[np.ndarray, "*frames H W"]:
    """A sensor's depth in meters, 0 where nothing was measured, as it is.

    Raises InputError for NaN, infinity, negative numbers, and distances that no sensor of a robot's measures.
    """
    if readings.size and not (np.isfinite(readings).all() and (readings >= 0).all()):
        raise InputError(
            "Depth contains NaN, infinity or negative values; pass meters, and 0 where the sensor sees nothing."
        )
    if readings.size and readings.max() > LARGEST_DEPTH:
        raise InputError(
            f"Depth reaches {readings.max():g} meters, and no sensor sees further than {LARGEST_DEPTH:g}; pass "
            "meters, not millimeters."
        )
    return readings


def fill_holes(readings: Real[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """A sensor's depth in meters, 0 without a reading -> all positive: holes take the largest reading."""
    return np.maximum(np.where(readings > 0, readings, readings.max()), SMALLEST_DEPTH, dtype=np.float32)


def believed_depth(
    readings: Real[np.ndarray, "*frames H W"], depth_range: tuple[float, float] | None
) -> Real[np.ndarray, "*frames H W"]:
    """Depth with 0, "not measured", for what lies outside of a sensor's range.

    depth_range: nearest and farthest meters; None believes all.
    """
    if depth_range is None:
        return readings
    nearest, farthest = depth_range
    return np.where((readings >= nearest) & (readings <= farthest), readings, np.float32(0))

"""Image augmentation of a whole batch at once; a crop moves the intrinsics and the depth map along."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spatialvla.errors import InputError
from spatialvla.geometry.camera import crop_intrinsics, resize_intrinsics

LUMA = (0.299, 0.587, 0.114)
RGB_TO_YIQ = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
_YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


@dataclass(frozen=True)
class Views:
    """What a camera would have seen.

    images: (B, H, W, 3) uint8 RGB.
    intrinsics: (B, 3, 3) float64 K in pixels of `images`.
    depth: (B, H, W) float32 meters, or None.
    """

    images: np.ndarray
    intrinsics: np.ndarray
    depth: np.ndarray | None = None


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop and color jitter in the published strengths; a strength of 0 (crop: 1) is off."""

    min_crop_area: float = 0.9
    """Smallest part of the image's area that a crop keeps."""

    max_crop_area: float | None = None
    """Largest such part; None keeps the smallest always, as published."""

    brightness: float = 0.2
    """Largest shift, as a fraction of the full range."""

    contrast: float = 0.2
    """The factor is drawn from [1 - value, 1 + value]."""

    saturation: float = 0.2
    """The factor is drawn from [1 - value, 1 + value]."""

    hue: float = 0.05
    """Largest rotation of the hue, as a fraction of the color circle."""

    def __post_init__(self) -> None:
        if not 0 < self.min_crop_area <= 1:
            raise InputError(f"min_crop_area is a fraction in (0, 1], not {self.min_crop_area}.")
        if self.max_crop_area is not None and not self.min_crop_area <= self.max_crop_area <= 1:
            raise InputError(
                f"max_crop_area lies between min_crop_area, {self.min_crop_area}, and 1, "
                f"not at {self.max_crop_area}."
            )
        for name in ("brightness", "contrast", "saturation", "hue"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"augmentation {name} must lie in [0, 1], not {getattr(self, name)}.")

    @classmethod
    def off(cls) -> Augmentation:
        """Leaves every image as it is."""
        return cls(min_crop_area=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)

    def __call__(self, views: Views, size: int, rng: np.random.Generator) -> Views:
        """Each image its own crop and colors, all drawn from `rng`; cropped ones become squares of `size` pixels.

        Each crop is cut from the camera's own pixels and scaled once: scaling first would blur it twice, and
        serving never sees images that were blurred so. What is not cropped is left to the processor to scale.
        """
        if self.min_crop_area < 1:
            height, width = views.images.shape[1:3]
            views = scaled_crops(views, self._boxes(len(views.images), height, width, rng), size)
        return self._colored(views, rng)

    def _colored(self, views: Views, rng: np.random.Generator) -> Views:
        if self.brightness or self.contrast or self.saturation or self.hue:
            matrices, offsets = self._colors(views.images, rng)
            views = Views(transform_colors(views.images, matrices, offsets), views.intrinsics, views.depth)
        return views

    def _boxes(self, count: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """(count, 4) int64 left, top, width, height; both sides shrink by the same share of the area."""
        largest = self.min_crop_area if self.max_crop_area is None else self.max_crop_area
        side = np.sqrt(rng.uniform(self.min_crop_area, largest, count))
        sizes = np.ceil(np.stack([side * width, side * height], axis=1) - 1e-9)
        corners = np.floor(rng.random((count, 2)) * (np.array([width, height]) - sizes + 1))
        return np.concatenate([corners, sizes], axis=1).astype(np.int64)

    def _colors(self, images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(B, 3, 3) and (B, 3): brightness, contrast, saturation and hue folded into one affine map."""
        count = len(images)
        shift = 255 * rng.uniform(-self.brightness, self.brightness, (count, 1))
        contrast = rng.uniform(1 - self.contrast, 1 + self.contrast, (count, 1))
        saturation = rng.uniform(1 - self.saturation, 1 + self.saturation, count)
        angle = 2 * math.pi * rng.uniform(-self.hue, self.hue, count)

        # In YIQ, saturation scales the chroma plane (I, Q) and hue turns it.
        chroma = np.zeros((count, 3, 3))
        chroma[:, 0, 0] = 1
        chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * np.cos(angle)
        chroma[:, 2, 1] = saturation * np.sin(angle)
        chroma[:, 1, 2] = -chroma[:, 2, 1]
        matrices = _YIQ_TO_RGB @ chroma @ RGB_TO_YIQ

        # Every 4th pixel gives the mean to well under one gray level.
        some = images[:, ::4, ::4].reshape(count, -1, 3).astype(np.float32)
        means = np.ones(some.shape[1], np.float32) @ some / some.shape[1]
        offsets = (matrices @ ((1 - contrast) * means + shift)[:, :, None])[:, :, 0]
        return matrices * contrast[:, :, None], offsets


def scaled_crops(views: Views, boxes: np.ndarray, size: int) -> Views:
    """Cut each image to its box (left, top, width, height; in pixels) and scale it to a square of `size` pixels.

    Colors with the processor's bicubic filter, to within two gray levels: Pillow's own takes five times as long.
    Depth takes the nearest pixel, so that no depth between two objects is invented.
    """
    # Here, so that a configuration that holds an Augmentation, and a command's --help, need no torch.
    import torch
    import torch.nn.functional as F

    pixels = torch.from_numpy(np.ascontiguousarray(views.images)).permute(0, 3, 1, 2)
    images = torch.empty((len(pixels), size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    depth = None if views.depth is None else torch.from_numpy(np.ascontiguousarray(views.depth, np.float32))
    new_depth = None if depth is None else torch.empty((len(pixels), size, size))
    for index, (left, top, box_width, box_height) in enumerate(boxes.tolist()):
        rows, columns = slice(top, top + box_height), slice(left, left + box_width)
        images[index] = F.interpolate(
            pixels[index : index + 1, :, rows, columns],
            size=(size, size),
            mode="bicubic",
            antialias=True,
        )[0]
        if depth is not None and new_depth is not None:
            cut = depth[None, index : index + 1, rows, columns]
            new_depth[index] = F.interpolate(cut, size=(size, size), mode="nearest-exact")[0, 0]
    return Views(
        images=images.permute(0, 2, 3, 1).numpy(),
        intrinsics=_moved_intrinsics(views.intrinsics, boxes, (size, size)),
        depth=None if new_depth is None else new_depth.numpy(),
    )


def _moved_intrinsics(intrinsics: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack(
        [
            resize_intrinsics(crop_intrinsics(camera, left, top), (height, width), size)
            for camera, (left, top, width, height) in zip(intrinsics, boxes.tolist(), strict=True)
        ]
    )


def transform_colors(images: np.ndarray, matrices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Apply `matrices[b] @ rgb + offsets[b]` to each pixel of (B, H, W, 3) uint8 images, cut to [0, 255].

    In memory the result's colors are planes, as they are in a batch: only so are the sums long, and fast.
    """
    count, height, width, _ = images.shape
    mapped = np.empty((count, 3, height, width), np.uint8)
    planes = np.empty((3, height, width), np.float32)
    shifts = (offsets + 0.5)[..., None].astype(np.float32)  # the half makes the cast to uint8 round
    for image, matrix, shift, target in zip(images, matrices.astype(np.float32), shifts, mapped, strict=True):
        # One image at a time stays in the core's cache: 3 times faster than the whole batch at once.
        planes[:] = image.transpose(2, 0, 1)
        colors = matrix @ planes.reshape(3, -1)
        colors += shift
        np.clip(colors, 0, 255, out=colors)
        target[:] = colors.reshape(target.shape)
    return mapped.transpose(0, 2, 3, 1)

"""Pictures and depth maps as they come -> tensors of the model's image size."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from spatialvla.errors import InputError

SMALLEST_DEPTH = 1e-3
"""Metres; float16 keeps it apart from 0."""


def to_rgb(image: np.ndarray | Image.Image) -> Image.Image:
    """A PIL image in RGB. Arrays are (H, W, 3) uint8; grey (H, W[, 1]) and RGBA (H, W, 4) are converted."""
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise InputError(f"Images must be uint8, got {array.dtype}; scale to 0..255 and convert.")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise InputError(f"Images must have shape (H, W, 3), got {array.shape}.")
    return Image.fromarray(array).convert("RGB")


def pixel_values(picture: Image.Image, size: int) -> torch.Tensor:
    """An RGB image -> (3, size, size) float32 in [0, 1], resized as uint8 with a bicubic filter."""
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def depth_map(depth: np.ndarray, size: int) -> torch.Tensor:
    """A sensor's depth (H, W) in metres -> (size, size) float32.

    Nearest neighbour: a mean over an edge would invent points in mid-air. Raises InputError for other shapes and
    types, NaN, and values that are not positive.
    """
    metres = np.asarray(depth)
    if metres.ndim != 2 or not np.issubdtype(metres.dtype, np.floating):
        raise InputError(
            f"Depth must be (H, W) floating-point metres, got {metres.dtype} of shape {metres.shape}."
        )
    if not np.isfinite(metres).all() or (metres <= 0).any():
        raise InputError(
            "Depth contains NaN, infinity or values that are not positive; fill the sensor's holes first."
        )
    resized = Image.fromarray(metres.astype(np.float32)).resize((size, size), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized))


def fill_holes(readings: np.ndarray) -> np.ndarray:
    """A sensor's depth (H, W) in metres, 0 without a reading -> all positive: holes take the largest reading."""
    return np.maximum(np.where(readings > 0, readings, readings.max()), SMALLEST_DEPTH, dtype=np.float32)

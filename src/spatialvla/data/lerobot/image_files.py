"""Single frames as files inside a parquet column: RGB as PNG, depth as 16-bit TIFF."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from spatialvla.common.pictures import open_picture, to_rgb
from spatialvla.errors import CheckpointError

_MAX_MILLIMETERS = np.iinfo(np.uint16).max


def to_millimeters(depth: np.ndarray) -> np.ndarray:
    """Depth in meters as uint16 millimeters; 0 (no reading) where it is not finite, positive, below 65.5."""
    millimeters = np.rint(np.nan_to_num(depth.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0) * 1e3)
    readable = (millimeters > 0) & (millimeters <= _MAX_MILLIMETERS)
    return np.where(readable, millimeters, 0).astype(np.uint16)


def encode_rgb(frames: Iterable[np.ndarray]) -> list[bytes]:
    """(H, W, 3) uint8 frames as PNG files."""
    return [_encode(frame, "PNG") for frame in frames]


def encode_depth(frames: Iterable[np.ndarray]) -> list[bytes]:
    """(H, W) uint16 frames in millimeters as losslessly compressed TIFF files."""
    return [_encode(frame, "TIFF", compression="tiff_adobe_deflate") for frame in frames]


def decode_rgb(files: Sequence[bytes], source: str) -> np.ndarray:
    """Picture files of any mode and one size as (T, H, W, 3) uint8.

    source: named in the CheckpointError that a broken picture raises, as in `decode_depth`.
    """
    return _decode(files, source, to_rgb)


def decode_depth(files: Sequence[bytes], source: str) -> np.ndarray:
    """Depth files of one size as (T, H, W) in their stored dtype."""
    readings = _decode(files, source, lambda picture: picture)
    if readings.ndim != 3:
        raise CheckpointError(f"{source} holds depth as pictures in color; choose a feature that is depth.")
    return readings


def _decode(
    files: Sequence[bytes], source: str, converted: Callable[[Image.Image], Image.Image]
) -> np.ndarray:
    try:
        return np.stack([np.asarray(converted(open_picture(file))) for file in files])
    except ValueError as error:
        raise CheckpointError(
            f"{source} holds an image that cannot be used ({error}); copy it again."
        ) from error


def _encode(frame: np.ndarray, file_format: str, **options: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, file_format, **options)
    return buffer.getvalue()

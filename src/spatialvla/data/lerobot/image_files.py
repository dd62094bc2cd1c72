"""Single frames as files inside a parquet column: RGB as PNG, depth as 16-bit TIFF."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

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


def decode(files: Sequence[bytes], source: str) -> np.ndarray:
    """Image files as one array (T, H, W, 3) uint8, or (T, H, W) in the depth's stored dtype.

    source: named in the CheckpointError that a broken image raises.
    """
    try:
        return np.stack([np.asarray(Image.open(BytesIO(file))) for file in files])
    except (UnidentifiedImageError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{source} holds an image that cannot be decoded ({error}); copy it again."
        ) from error


def _encode(frame: np.ndarray, file_format: str, **options: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, file_format, **options)
    return buffer.getvalue()

"""Picture files: decoded whole or refused, upright, and in 8-bit RGB whatever their mode."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from spatialvla.errors import InputError

_UPRIGHT = 1  # of EXIF's orientations
MOST_PIXELS = 2**26
"""More than any camera has: such a picture is not decoded."""


def open_picture(file: Path | bytes | memoryview, formats: Sequence[str] | None = None) -> Image.Image:
    """The decoded picture of a file, as it is stored.

    formats: those that are looked at, in Pillow's names, such as "PNG"; None is all that Pillow reads.
    Raises InputError, saying why, where it cannot be decoded or has more pixels than any camera's, before
    they take memory; FileNotFoundError where there is no such file.
    """
    try:
        with Image.open(
            file if isinstance(file, Path) else BytesIO(file),
            formats=None if formats is None else tuple(formats),
        ) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise InputError(f"it has {picture.width} times {picture.height} pixels")
            picture.load()
            return picture
    except FileNotFoundError:
        raise
    except UnidentifiedImageError:  # its sentence names an object in memory
        raise InputError("its content cannot be decoded: it is no picture of a format that is read") from None
    except Exception as error:  # Pillow's decoders raise whatever comes up in damaged data, SyntaxError too.
        raise InputError(f"its content cannot be decoded: {error}") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """The picture in mode RGB, turned upright as its EXIF orientation says; 16-bit gray is scaled to 8 bits.

    Raises InputError for 32-bit and float pictures, whose numbers do not say what is white.
    """
    if picture.getexif().get(Base.Orientation, _UPRIGHT) != _UPRIGHT:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGB":
        return picture
    # Older versions of Pillow open a 16-bit PNG in mode I.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG"):
        levels = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise InputError(
            f"A picture of mode {picture.mode} does not say which of its numbers is white; convert it to 8 bits."
        )
    return picture.convert("RGB")


def pixels(picture: np.ndarray | Image.Image) -> np.ndarray:
    """An array as it is, and a PIL picture as RGB (H, W, 3). Raises InputError as `to_rgb` does."""
    return picture if isinstance(picture, np.ndarray) else np.asarray(to_rgb(picture))

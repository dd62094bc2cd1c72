"""Picture files of datasets as RGB pixels: JPEG by libjpeg-turbo at once, everything else by Pillow."""

from __future__ import annotations

import numpy as np
import simplejpeg

from spatialvla.common.pictures import MOST_PIXELS, open_picture, to_rgb

_JPEG = b"\xff\xd8\xff"
_NOTES = (b"Exif\0", b"http://ns.adobe.com/xap/")
"""Begin what may say, as EXIF or XMP, which side of a picture is up."""

_COLORS = ("YCbCr", "Gray", "RGB")  # others, as CMYK, Pillow converts in its own way


def read_rgb(data: bytes | memoryview) -> np.ndarray:
    """(H, W, 3) uint8: the pixels that `to_rgb` makes of the file that `open_picture` opens, and the same errors.

    JPEG, which most datasets hold, is decoded into the array itself in half of Pillow's time. Pillow decodes by
    libjpeg-turbo, too, so the pixels are the same.
    """
    content = bytes(data)
    if content.startswith(_JPEG) and not any(note in content for note in _NOTES):
        try:
            height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
            if int(height) * int(width) <= MOST_PIXELS and colors in _COLORS:
                pixels: np.ndarray = simplejpeg.decode_jpeg(content, "RGB")
                return pixels
        except ValueError:  # damaged: Pillow says how
            pass
    return np.asarray(to_rgb(open_picture(content)))

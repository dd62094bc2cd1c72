"""Pictures for a browser: a camera's, and depth in colors."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Real, UInt8
from PIL import Image

_QUALITY = 85
_NEAR_TO_FAR = np.array(
    [
        (253, 231, 37),
        (170, 220, 50),
        (94, 201, 98),
        (39, 173, 129),
        (33, 144, 141),
        (44, 113, 142),
        (59, 81, 139),
        (71, 44, 122),
        (68, 1, 84),
    ],
    np.float64,
)
"""RGB of depths, the nearest first: viridis, as in the figures of `predict`."""

_NOT_MEASURED = (128, 128, 128)


def camera_jpeg(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """The picture as a JPEG file."""
    return _jpeg(Image.fromarray(image))


def depth_jpeg(depth: Real[np.ndarray, "h w"], size: tuple[int, int]) -> tuple[bytes, float, float]:
    """Depth in colors as a JPEG file, and the meters of its nearest and its farthest color.

    size: height and width of the file. Depth that is 0 or not finite was not measured, and is gray.
    """
    known = np.isfinite(depth) & (depth > 0)
    near, far = np.percentile(depth[known], (1, 99)) if known.any() else (0.0, 0.0)
    share = np.where(known, (depth - near) / max(far - near, 1e-6), 0).clip(0, 1) * (len(_NEAR_TO_FAR) - 1)
    anchors = np.arange(len(_NEAR_TO_FAR))
    colors = np.stack([np.interp(share, anchors, channel) for channel in _NEAR_TO_FAR.T], axis=-1)
    colors[~known] = _NOT_MEASURED
    picture = Image.fromarray(colors.astype(np.uint8)).resize(size[::-1], Image.Resampling.BILINEAR)
    return _jpeg(picture), float(near), float(far)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()

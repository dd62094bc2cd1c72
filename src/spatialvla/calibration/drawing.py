"""A picture of a calibration: where points were seen, and where the calibrated camera sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

_BLANK = (40, 44, 52)
_SEEN, _REPROJECTED, _OUTLIER = (255, 200, 60), (80, 220, 130), (255, 80, 80)
_LEGEND = "ring: as seen    cross: reprojected    red: outliers"
_TILE, _COLUMNS = 640, 3


@dataclass(frozen=True)
class Scene:
    """One picture with points. picture: RGB (H, W, 3); None draws on a blank one of `size` (height, width).

    seen, reprojected: (N, 2) pixels. outliers: (N,). names: what is written beside outliers.
    """

    size: tuple[int, int]
    seen: np.ndarray
    reprojected: np.ndarray
    outliers: np.ndarray
    names: Sequence[str]
    picture: np.ndarray | None = None


def sheet(scenes: Sequence[Scene]) -> Image.Image:
    """All scenes beside and below each other, and a legend."""
    tiles = [_tile(scene) for scene in scenes]
    columns = min(_COLUMNS, len(tiles))
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * width, rows * height + 20), _BLANK)
    for number, tile in enumerate(tiles):
        page.paste(tile, (number % columns * width, number // columns * height))
    ImageDraw.Draw(page).text((6, rows * height + 4), _LEGEND, fill=(255, 255, 255))
    return page


def _tile(scene: Scene) -> Image.Image:
    height, width = scene.size
    scale = _TILE / width
    size = (_TILE, max(round(height * scale), 1))
    picture = scene.picture
    tile = Image.new("RGB", size, _BLANK) if picture is None else Image.fromarray(picture).resize(size)
    draw = ImageDraw.Draw(tile)
    for (u, v), (x, y), outlier, name in zip(
        scene.seen * scale, scene.reprojected * scale, scene.outliers, scene.names, strict=True
    ):
        draw.ellipse((u - 5, v - 5, u + 5, v + 5), outline=_OUTLIER if outlier else _SEEN, width=2)
        if outlier:
            draw.text((u + 8, v - 6), name, fill=_OUTLIER)
        if np.isfinite([x, y]).all():
            draw.line((x - 4, y, x + 4, y), fill=_REPROJECTED, width=1)
            draw.line((x, y - 4, x, y + 4), fill=_REPROJECTED, width=1)
            draw.line((u, v, x, y), fill=_OUTLIER if outlier else _SEEN, width=1)
    return tile

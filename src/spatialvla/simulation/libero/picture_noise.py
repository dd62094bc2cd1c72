"""LIBERO-plus's sensor noise: blur by motion, lens and zoom, fog, and frosted glass, each in ten strengths.

The corruptions are those of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261) with LIBERO-plus's
numbers. Lengths are in pixels of its pictures, which are 256 x 256.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from spatialvla.errors import InputError

SIZE = 256
"""Side of LIBERO-plus's pictures, pixels."""

STRENGTHS = 10

Picture = Float[np.ndarray, "256 256 3"]
Corruption = Callable[[Picture, int, np.random.Generator], Picture]
"""Picture in [0, 1], strength counted from 0, random numbers -> picture in [0, 1]."""

_MOTION = ((5, 2), (8, 3), (10, 4), (12, 5), (15, 6), (18, 8), (20, 10), (25, 12), (30, 15), (35, 20))
_ZOOM = (
    *((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    *((1.36, 0.01), (1.41, 0.01), (1.46, 0.02), (1.51, 0.02), (1.56, 0.03)),
)
_FOG = (
    *((0.5, 3.0), (1.0, 2.8), (1.5, 2.5), (2.0, 2.2), (2.5, 2.0)),
    *((3.0, 1.8), (3.5, 1.6), (4.0, 1.5), (4.5, 1.4), (5.0, 1.3)),
)
_GLASS = (
    *((0.5, 1, 3), (0.7, 1, 3), (0.9, 2, 3), (1.0, 2, 2), (1.1, 3, 2)),
    *((1.3, 3, 2), (1.5, 4, 2), (1.8, 4, 2), (2.2, 5, 1), (2.5, 5, 1)),
)
_GLASS_SIDE = 224
"""The benchmark shuffles pixels up to here, as in ImageNet-C, though its pictures are larger."""


def noise_name(number: int) -> str:
    """What noise of this number, 1 to 50, is: `motion blur 3`. InputError for other numbers."""
    kind, strength = _kind(number)
    return f"{kind} {strength + 1}"


def disturbed(
    picture: UInt8[np.ndarray, "256 256 3"], number: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "256 256 3"]:
    """The picture with noise of this number, 1 to 50. Raises InputError for other numbers and sizes."""
    if picture.shape != (SIZE, SIZE, 3):
        raise InputError(f"LIBERO-plus's noise is for pictures of {SIZE} x {SIZE}, not of {picture.shape}.")
    kind, strength = _kind(number)
    noisy = _CORRUPTIONS[kind](picture / 255, strength, rng)
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8)


def _kind(number: int) -> tuple[str, int]:
    if not 1 <= number <= STRENGTHS * len(_CORRUPTIONS):
        raise InputError(
            f"LIBERO-plus numbers noise 1 to {STRENGTHS * len(_CORRUPTIONS)}, there is no {number}."
        )
    kind, strength = divmod(number - 1, STRENGTHS)
    return list(_CORRUPTIONS)[kind], strength


def _motion_blur(picture: Picture, strength: int, rng: np.random.Generator) -> Picture:
    """Half a Gaussian along a line, as ImageMagick's motion blur draws it; pixels past the edge repeat it."""
    radius, sigma = _MOTION[strength]
    angle = np.radians(rng.uniform(-45, 45))
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    rights = np.ceil(steps * np.cos(angle) - 0.5).astype(int)
    downs = np.ceil(steps * np.sin(angle) - 0.5).astype(int)
    pixels = np.arange(SIZE)
    blurred = np.zeros_like(picture)
    for weight, right, down in zip(weights, rights, downs, strict=True):
        rows, columns = np.clip(pixels + down, 0, SIZE - 1), np.clip(pixels + right, 0, SIZE - 1)
        blurred += weight * picture[rows][:, columns]
    return blurred


def _gaussian_blur(picture: Picture, strength: int, rng: np.random.Generator) -> Picture:
    return _gaussian(picture, strength + 1)


def _zoom_blur(picture: Picture, strength: int, rng: np.random.Generator) -> Picture:
    """The mean of the picture and of its middle, enlarged in small steps."""
    factors = np.arange(1, *_ZOOM[strength])
    enlarged = [_enlarged(picture, factor) for factor in factors]
    blurred: Picture = (picture + sum(enlarged)) / (len(factors) + 1)
    return blurred


def _enlarged(picture: Picture, factor: float) -> Picture:
    """The middle of the picture, enlarged linearly to all of its size."""
    part = int(np.ceil(SIZE / factor))
    first, whole = (SIZE - part) // 2, round(part * factor)
    trimmed = (whole - SIZE) // 2
    at = np.arange(trimmed, trimmed + SIZE) * (part - 1) / (whole - 1)
    below = np.minimum(at.astype(int), part - 2)
    weights = np.zeros((SIZE, part))
    weights[np.arange(SIZE), below] = 1 - (at - below)
    weights[np.arange(SIZE), below + 1] = at - below
    middle = picture[first : first + part, first : first + part]
    enlarged: Picture = np.moveaxis(weights @ np.moveaxis(middle, 2, 0) @ weights.T, 0, 2)
    return enlarged


def _fog(picture: Picture, strength: int, rng: np.random.Generator) -> Picture:
    thickness, decay = _FOG[strength]
    brightest = picture.max()
    clouds = thickness * _plasma(decay, rng)[..., None]
    foggy: Picture = (picture + clouds) * brightest / (brightest + thickness)
    return foggy


def _plasma(decay: float, rng: np.random.Generator) -> Float[np.ndarray, "256 256"]:
    """Clouds in [0, 1] by the diamond-square algorithm, on a torus. decay: of the roughness a halving."""
    clouds, step, roughness = np.zeros((SIZE, SIZE)), SIZE, 100.0

    def around(total: np.ndarray) -> np.ndarray:
        # ImageNet-C squares the roughness, too.
        mean: np.ndarray = total / 4 + roughness * rng.uniform(-roughness, roughness, total.shape)
        return mean

    while step >= 2:
        half = step // 2
        corners = clouds[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        clouds[half::step, half::step] = around(pairs + np.roll(pairs, -1, axis=1))
        centers = clouds[half::step, half::step]
        above = centers + np.roll(centers, 1, axis=0)
        clouds[::step, half::step] = around(above + corners + np.roll(corners, -1, axis=1))
        beside = centers + np.roll(centers, 1, axis=1)
        clouds[half::step, ::step] = around(beside + corners + np.roll(corners, -1, axis=0))
        step, roughness = half, roughness / decay
    scaled: np.ndarray = (clouds - clouds.min()) / np.ptp(clouds)
    return scaled


def _glass_blur(picture: Picture, strength: int, rng: np.random.Generator) -> Picture:
    """Blurred, then each pixel taken from one nearby, then blurred again."""
    sigma, farthest, times = _GLASS[strength]
    source = np.arange(SIZE * SIZE).tolist()
    side = range(_GLASS_SIDE - farthest, farthest, -1)
    for _ in range(times):
        shifts = rng.integers(-farthest, farthest, (len(side) ** 2, 2)) @ [1, SIZE]
        pixels = np.add.outer(np.array(side) * SIZE, np.array(side)).ravel()
        # ImageNet-C means to swap the two, but copies: what it assigns from is a view of what it assigns to.
        for pixel, other in zip(pixels.tolist(), (pixels + shifts).tolist(), strict=True):
            source[pixel] = source[other]
    shuffled = _gaussian(picture, sigma).reshape(-1, 3)[source].reshape(picture.shape)
    return _gaussian(shuffled, sigma)


def _gaussian(picture: Picture, sigma: float) -> Picture:
    from scipy.ndimage import gaussian_filter

    blurred: Picture = gaussian_filter(picture, (sigma, sigma, 0), mode="nearest")
    return blurred


_CORRUPTIONS: dict[str, Corruption] = {
    "motion blur": _motion_blur,
    "Gaussian blur": _gaussian_blur,
    "zoom blur": _zoom_blur,
    "fog": _fog,
    "glass blur": _glass_blur,
}
"""In the order of LIBERO-plus's numbers: ten strengths of the first, ten of the second and so on."""

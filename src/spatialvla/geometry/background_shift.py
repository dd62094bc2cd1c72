"""Whether two pictures of one camera have the same background, or one that is shifted: a camera that was pushed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

PUSHED = 0.02
"""Of the picture's width and height: a shift from which on a camera has moved. A turn by 1° does as much."""

_SIDE = 96
"""Pixels; larger pictures are shrunk to less than twice as many."""

_EDGE = 30.0
"""Gray levels from pixel to pixel; what is steeper counts no more."""

_CLEAR, _DISTINCT = 20.0, 1.5
"""How far the best shift stands out: over the mean, in standard deviations, and over the best one elsewhere. Pictures
of different scenes reach 15 and 1.4."""

_APART = 3  # pixels; shifts that are closer are one


def background(images: UInt8[np.ndarray, "T H W 3"]) -> Float[np.ndarray, "h w"]:
    """What stands still in pictures of one episode: their median, gray and small."""
    factor = max(images.shape[2] // _SIDE, 1)
    height, width = (max(side // factor, 1) for side in images.shape[1:3])
    squares = images[:, : height * factor, : width * factor].reshape(
        len(images), height, factor, width, factor, 3
    )
    still: np.ndarray = np.median(squares.mean(axis=(2, 4, 5), dtype=np.float32), axis=0)
    return still


def background_shift(
    first: Float[np.ndarray, "h w"], second: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, " 2"] | None:
    """By how much the second background lies to the right of, and below, the first: shares of width and height.

    By phase correlation of the edges (Kuglin and Hines 1975). None where it is unclear: another scene, another
    light, or hardly any edges.
    """
    height, width = first.shape
    if min(height, width) < 4 * _APART or not (np.ptp(first) and np.ptp(second)):
        return None
    spectrum = np.conj(np.fft.rfft2(_edges(first))) * np.fft.rfft2(_edges(second))
    strength = np.abs(spectrum)
    whitened = spectrum / (strength + 1e-3 * strength.max() + 1e-12)
    peaks = np.fft.irfft2(whitened, (height, width))
    down, right = np.unravel_index(int(peaks.argmax()), peaks.shape)
    rolled = np.roll(peaks, (_APART - down, _APART - right), axis=(0, 1))
    best = rolled[_APART, _APART]
    rolled[: 2 * _APART + 1, : 2 * _APART + 1] = 0
    if best - peaks.mean() < _CLEAR * peaks.std() or best < _DISTINCT * rolled.max():
        return None
    size = np.array([width, height])
    shift = (np.array([right, down]) + size // 2) % size - size // 2
    return np.asarray(shift / size)


def _edges(gray: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """How steep each pixel is, fading towards the borders, where pictures do not go on."""
    steep = np.minimum(np.hypot(*np.gradient(gray)), _EDGE)
    window = np.hanning(gray.shape[0])[:, None] * np.hanning(gray.shape[1])
    edges: np.ndarray = (steep - steep.mean()) * window
    return edges

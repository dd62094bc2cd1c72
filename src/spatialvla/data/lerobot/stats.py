"""The statistics LeRobot stores: of each episode, and of the whole dataset.

Numbers: arrays shaped like one frame's value. Images: per channel, shaped (C, 1, 1); RGB in [0, 1], depth in
stored units. `count` is a number of frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Statistics = Mapping[str, np.ndarray]

_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
STATISTICS = ("min", "max", "mean", "std", "count", *_QUANTILES)
_MAX_IMAGE_SAMPLES = 100


def number_statistics(values: np.ndarray) -> Statistics:
    """Statistics over the first axis of (T, ...) numbers; quantiles are exact."""
    return _statistics(values.astype(np.float64), count=len(values))


def image_statistics(images: np.ndarray, scale: float) -> Statistics:
    """Statistics of (T, H, W, C) or (T, H, W) pixels divided by `scale`, from at most 100 spread frames."""
    picked = np.unique(
        np.linspace(0, len(images) - 1, min(len(images), _MAX_IMAGE_SAMPLES)).round().astype(int)
    )
    sample = images[picked]
    channels = sample.reshape(-1, sample.shape[3] if sample.ndim == 4 else 1)
    if channels.dtype == np.uint8:
        per_channel = [_histogram_statistics(np.bincount(channel, minlength=256)) for channel in channels.T]
        flat = {name: np.array([channel[name] for channel in per_channel]) for name in per_channel[0]}
        flat["count"] = np.array([len(picked)])
    else:
        flat = dict(_statistics(channels.astype(np.float64), count=len(picked)))
    return {
        name: value if name == "count" else value.reshape(-1, 1, 1) / scale for name, value in flat.items()
    }


def combine(parts: Sequence[Statistics]) -> Statistics:
    """Statistics of several episodes together; quantiles are the frame-weighted mean of the episodes'."""
    stacked = {name: np.stack([part[name] for part in parts]) for name in STATISTICS}
    counts = stacked["count"].reshape(-1, *[1] * (stacked["mean"].ndim - 1)).astype(np.float64)
    total = counts.sum(axis=0)

    def average(values: np.ndarray) -> np.ndarray:
        return np.asarray((values * counts).sum(axis=0) / total)

    mean = average(stacked["mean"])
    variance = average(stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)
    return {
        "min": stacked["min"].min(axis=0),
        "max": stacked["max"].max(axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": stacked["count"].sum(axis=0),
        **{name: average(stacked[name]) for name in _QUANTILES},
    }


def _statistics(values: np.ndarray, count: int) -> Statistics:
    values = values[:, None] if values.ndim == 1 else values
    quantiles = np.quantile(values, list(_QUANTILES.values()), axis=0)
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([count]),
        **dict(zip(_QUANTILES, quantiles, strict=True)),
    }


def _histogram_statistics(histogram: np.ndarray) -> dict[str, float]:
    """Statistics of 8-bit values from how often each occurs; far faster than sorting pixels."""
    levels = np.arange(len(histogram))
    present = levels[histogram > 0]
    total = histogram.sum()
    mean = float((levels * histogram).sum() / total)
    cumulative = np.cumsum(histogram)
    return {
        "min": float(present[0]),
        "max": float(present[-1]),
        "mean": mean,
        "std": float(np.sqrt(((levels - mean) ** 2 * histogram).sum() / total)),
        **{name: float(np.searchsorted(cumulative, q * total)) for name, q in _QUANTILES.items()},
    }

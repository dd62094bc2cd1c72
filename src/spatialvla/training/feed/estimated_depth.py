"""Datasets seen with the frozen estimator's depth, which is computed once for every frame and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from spatialvla.data.episodes import EpisodeSource, EpisodeWrapper, SourceWrapper
from spatialvla.data.frame_cache import filling, mapped
from spatialvla.model.spatialvla import SpatialVLA

ESTIMATE_BATCH = 32


@dataclass(frozen=True)
class EstimatedEpisode(EpisodeWrapper):
    """An episode whose depth was estimated. estimates: (T, S, S) float16 meters."""

    estimates: np.ndarray

    def depth(self, steps: Sequence[int]) -> np.ndarray:
        """(n, S, S) float32 meters, as the model would estimate them from the whole images."""
        return self.estimates[list(steps)].astype(np.float32)


@dataclass(frozen=True)
class EstimatedDepth(SourceWrapper):
    """A dataset with the estimator's depth instead of a sensor's.

    ends: (E,) one past the last row of each episode in the array in the file `path`, (N, S, S) float16
    meters.
    """

    ends: np.ndarray
    path: Path

    @property
    def fingerprint(self) -> str:
        """Of the dataset and the estimates."""
        return f"{self.source.fingerprint} with depth {self.path.stem}"

    def episode(self, index: int) -> EstimatedEpisode:
        """Any episode. Raises CheckpointError, naming the file, for damaged data."""
        episode, end = self.source.episode(index), int(self.ends[index])
        return EstimatedEpisode(episode, self._estimates[end - len(episode.actions) : end])

    @cached_property
    def _estimates(self) -> np.ndarray:
        return mapped(self.path)

    def __reduce__(self) -> tuple[object, ...]:
        return EstimatedDepth, (self.source, self.ends, self.path)


def with_estimated_depth(
    source: EpisodeSource,
    lengths: np.ndarray,
    model: SpatialVLA,
    cache: Path,
    progress: Callable[[int], None] = lambda frames: None,
) -> EstimatedDepth:
    """The depth of every frame, on the model's device; the frames have the size of the model's images.

    lengths: (E,) steps of each episode, 0 for those that cannot be read. cache: folder of finished estimates.
    progress: told the number of frames after each batch. Raises CheckpointError where the disk has no room.
    """
    # The file's name tells the frames and the estimator's weights, so neither can change unnoticed.
    digest = hashlib.sha256(source.fingerprint.encode())
    for name, tensor in model.vision_zoe_model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    found = EstimatedDepth(source, np.cumsum(lengths), cache / f"{digest.hexdigest()[:24]}.npy")
    if not found.path.is_file():
        size = model.config.image_size
        with filling(found.path, (int(lengths.sum()), size, size), np.float16) as estimates:
            for index in np.flatnonzero(lengths).tolist():
                episode, first = source.episode(index), int(found.ends[index] - lengths[index])
                for start in range(0, int(lengths[index]), ESTIMATE_BATCH):
                    steps = range(start, min(start + ESTIMATE_BATCH, int(lengths[index])))
                    pixels = torch.from_numpy(episode.images(steps)).permute(0, 3, 1, 2)
                    with torch.no_grad():
                        depth = model.vision_zoe_model.estimate(pixels.to(model.device).float() / 255)
                    estimates[first + steps.start : first + steps.stop] = depth.cpu().numpy()
                    progress(len(steps))
    return found

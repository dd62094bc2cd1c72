"""Datasets seen with the frozen estimator's depth, which is computed once for every frame and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from spatialvla.common.row_files import RowFile, writing_rows
from spatialvla.data.episodes import EpisodeSource, EpisodeWrapper, SourceWrapper
from spatialvla.model.spatialvla import SpatialVLA

ESTIMATE_BATCH = 32
_FORMAT = 2  # of the files


@dataclass(frozen=True)
class EstimatedEpisode(EpisodeWrapper):
    """An episode whose depth was estimated. estimates: rows (S, S) float16 meters, its own from `first` on."""

    estimates: RowFile
    first: int

    def depth(self, steps: Sequence[int]) -> np.ndarray:
        """(n, S, S) float32 meters, as the model would estimate them from the whole images.

        Raises CheckpointError, naming the file, where it is damaged.
        """
        return self.estimates.rows([self.first + step for step in steps]).astype(np.float32)


@dataclass(frozen=True)
class EstimatedDepth(SourceWrapper):
    """A dataset with the estimator's depth instead of a sensor's.

    ends: (E,) one past the last row of each episode in the array in the file `path`, (N, S, S) float16
    meters. size: S.
    """

    ends: np.ndarray
    path: Path
    size: int

    @property
    def fingerprint(self) -> str:
        """Of the dataset and the estimates."""
        return f"{self.source.fingerprint} with depth {self.path.stem}"

    def episode(self, index: int) -> EstimatedEpisode:
        """Any episode. Raises CheckpointError, naming the file, for damaged data."""
        episode, end = self.source.episode(index), int(self.ends[index])
        return EstimatedEpisode(episode, self._estimates, end - len(episode.actions))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the array in the file."""
        return max(int(self.ends[-1]), 1), self.size, self.size

    @cached_property
    def _estimates(self) -> RowFile:
        return RowFile(self.path, self.shape, np.float16)

    def __reduce__(self) -> tuple[object, ...]:
        return EstimatedDepth, (self.source, self.ends, self.path, self.size)


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
    digest = hashlib.sha256(f"{_FORMAT} {source.fingerprint}".encode())
    for name, tensor in model.vision_zoe_model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    path = cache / f"{digest.hexdigest()[:24]}.npy"
    found = EstimatedDepth(source, np.cumsum(lengths), path, model.config.image_size)
    if not found.path.is_file():
        with writing_rows(found.path, found.shape, np.float16) as estimates:
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

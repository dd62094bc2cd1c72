"""Datasets seen with the frozen estimator's depth, which is computed once for each sample's frame and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from spatialvla.common.row_files import RowFile, RowWriter, writing_rows
from spatialvla.data.episodes import (
    EpisodeSource,
    EpisodeView,
    EpisodeWrapper,
    SeenThroughView,
    SourceWrapper,
)
from spatialvla.model.spatialvla import SpatialVLA

CPU_BATCH, GPU_BATCH = 32, 128
"""Frames that the estimator sees at a time: a GPU has little to do with a few of them."""
_FORMAT = 3  # of the files


@dataclass(frozen=True)
class EstimatedView(SeenThroughView):
    """What a camera saw, its depth estimated. estimates: rows (S, S) float16 meters, the episode's from `first` on."""

    view: EpisodeView
    estimates: RowFile
    first: int

    def depth(self, steps: Sequence[int]) -> np.ndarray:
        """(n, S, S) float32 meters, as the model would estimate them from the whole images.

        Raises CheckpointError, naming the file, where it is damaged.
        """
        return self.estimates.rows([self.first + step for step in steps]).astype(np.float32)


@dataclass(frozen=True)
class EstimatedEpisode(EpisodeWrapper):
    """An episode whose depth was estimated. first_view: of its first camera. views: of the others by name."""

    first_view: EstimatedView
    views: Mapping[str, EstimatedView]

    @property
    def other_views(self) -> Mapping[str, EstimatedView]:
        """Of the cameras beside the first."""
        return self.views

    def depth(self, steps: Sequence[int]) -> np.ndarray:
        """(n, S, S) float32 meters. Raises CheckpointError, naming the file, where it is damaged."""
        return self.first_view.depth(steps)


@dataclass(frozen=True)
class EstimatedDepth(SourceWrapper):
    """A dataset with the estimator's depth instead of a sensor's.

    ends: (E,) one past the last row of each episode in the arrays in files, (N, S, S) float16 meters: `path` is the
    first camera's, `others` are those of the others by name. size: S.
    """

    ends: np.ndarray
    path: Path
    size: int
    others: Mapping[str, Path] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Of the dataset and the estimates."""
        return f"{self.source.fingerprint} with depth {self.path.stem}"

    def episode(self, index: int) -> EstimatedEpisode:
        """Any episode. Raises CheckpointError, naming the file, for damaged data."""
        episode, first = self.source.episode(index), self.first_row(index)
        views = {
            name: EstimatedView(view, self._files[self.others[name]], first)
            for name, view in episode.other_views.items()
        }
        return EstimatedEpisode(episode, EstimatedView(episode, self._files[self.path], first), views)

    def first_row(self, index: int) -> int:
        """Of an episode."""
        return int(self.ends[index - 1]) if index else 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the array in each file."""
        return max(int(self.ends[-1]), 1), self.size, self.size

    @cached_property
    def _files(self) -> dict[Path, RowFile]:
        return {path: RowFile(path, self.shape, np.float16) for path in (self.path, *self.others.values())}

    def __reduce__(self) -> tuple[object, ...]:
        return EstimatedDepth, (self.source, self.ends, self.path, self.size, self.others)


def with_estimated_depth(
    source: EpisodeSource,
    lengths: np.ndarray,
    model: SpatialVLA,
    cache: Path,
    progress: Callable[[int], None] = lambda frames: None,
) -> EstimatedDepth:
    """The depth of each frame that samples start at, of the model's cameras, on its device; 0 of the others.

    The frames have the size of the model's images.
    lengths: (E,) steps of each episode, 0 for those that cannot be read. cache: folder of finished estimates.
    progress: told the number of frames after each batch. Raises CheckpointError where the disk has no room.
    """
    # The files' names tell the frames, their rows and the estimator's weights, so none can change unnoticed.
    digest = hashlib.sha256(f"{_FORMAT} {source.fingerprint} {lengths.tolist()}".encode())
    for name, tensor in model.vision_zoe_model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    stem = digest.hexdigest()[:24]
    others = {
        name: cache / f"{stem}_{hashlib.sha256(name.encode()).hexdigest()[:8]}.npy"
        for name in model.config.cameras[1:]
    }
    found = EstimatedDepth(source, np.cumsum(lengths), cache / f"{stem}.npy", model.config.image_size, others)
    missing = {camera: path for camera, path in ((None, found.path), *others.items()) if not path.is_file()}
    if missing:
        episodes = {index: source.episode(index) for index in np.flatnonzero(lengths).tolist()}
        seen = sum(len(episode.starts) for episode in episodes.values())
        for camera, path in missing.items():
            with writing_rows(path, found.shape, np.float16, seen) as estimates:
                for index, episode in episodes.items():
                    view = episode if camera is None else episode.other_views.get(camera)
                    if view is not None:
                        _estimate(
                            view,
                            episode.starts,
                            found.first_row(index),
                            model,
                            estimates,
                            progress,
                        )
    return found


def _estimate(
    view: EpisodeView,
    steps: np.ndarray,
    first: int,
    model: SpatialVLA,
    estimates: RowWriter,
    progress: Callable[[int], None],
) -> None:
    """Of these steps of an episode, whose first row is `first`."""
    size = CPU_BATCH if model.device.type == "cpu" else GPU_BATCH
    for start in range(0, len(steps), size):
        part = steps[start : start + size]
        pixels = torch.from_numpy(view.images(part.tolist())).permute(0, 3, 1, 2)
        with torch.no_grad():
            depth = model.vision_zoe_model.estimate(pixels.to(model.device).float() / 255)
        estimates[first + part] = depth.cpu().numpy()
        progress(len(part))

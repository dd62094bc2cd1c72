"""Samples -> batches: augmentation, the depth Ego3D sees, and the same processor that serving uses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from spatialvla.data.augmentation import Augmentation, Views
from spatialvla.data.in_memory import EpisodeSamples, write_array
from spatialvla.errors import InputError
from spatialvla.geometry.camera import SMALLEST_DEPTH, fill_holes
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.training.config import TrainConfig
from spatialvla.types import IGNORED, Batch

ESTIMATE_BATCH = 32


@dataclass(frozen=True)
class BatchSource:
    """Makes the batch of any step from scratch, so that nothing of it needs to be saved.

    key: of the dataset's statistics and camera in the processor.
    estimates: (N, H, W) float16 metres of the frozen depth estimator, where the run uses them.
    """

    samples: EpisodeSamples
    processor: Processor
    key: str
    config: TrainConfig
    estimates: np.ndarray | None

    def __post_init__(self) -> None:
        config = self.config
        needs_sensor = config.depth == "sensor" or config.guidance.depth_mix > 0
        if needs_sensor and self.samples.depth is None:
            raise InputError(f"{self.key} has no depth of its camera; train with depth='estimate'.")

    def training(self, indices: np.ndarray, step: int, rank: int = 0) -> Batch:
        """These frames, augmented as the random numbers of this step and rank say."""
        rng = np.random.default_rng([self.config.seed, 1, step, rank])
        takes_other = rng.random(len(indices)) < self.config.guidance.depth_mix
        batch = self._batch(indices, self.config.augmentation, rng, takes_other)
        return with_foreign_tokens(batch, self.config.guidance.foreign_tokens, rng)

    def evaluation(self, indices: np.ndarray) -> Batch:
        """These frames as they are."""
        rng = np.random.default_rng(0)
        return self._batch(indices, Augmentation.off(), rng, np.zeros(len(indices), dtype=bool))

    def _batch(
        self,
        indices: np.ndarray,
        augmentation: Augmentation,
        rng: np.random.Generator,
        takes_other: np.ndarray,
    ) -> Batch:
        samples = self.samples
        images = samples.images[indices]
        if samples.intrinsics is not None:
            intrinsics = samples.intrinsics[indices]
        else:
            camera = self.processor.camera(self.key).scaled_to(*images.shape[1:3])
            intrinsics = np.repeat(camera[None], len(indices), axis=0)
        views = augmentation(Views(images, intrinsics, self._depth(indices, takes_other)), rng)
        return self.processor(
            list(views.images),
            [self.processor.prompt(words) for words in samples.prompts(indices)],
            self.key,
            intrinsics=list(views.intrinsics),
            depth=None if views.depth is None else list(views.depth),
            actions=samples.chunks(indices),
        )

    def _depth(self, indices: np.ndarray, takes_other: np.ndarray) -> np.ndarray:
        """(B, H, W) float32 metres, all positive: holes of a sensor take the frame's largest reading."""
        from_sensor = takes_other ^ (self.config.depth == "sensor")
        depth = np.empty(self.samples.images[indices[:1]].shape[1:3], np.float32)
        depth = np.repeat(depth[None], len(indices), axis=0)
        if self.estimates is not None:
            depth[~from_sensor] = self.estimates[indices[~from_sensor]]
        if self.samples.depth is not None and from_sensor.any():
            readings = self.samples.depth[indices[from_sensor]].astype(np.float32)
            depth[from_sensor] = [fill_holes(frame) for frame in readings]
        return np.maximum(depth, SMALLEST_DEPTH)


def with_foreign_tokens(batch: Batch, share: float, rng: np.random.Generator) -> Batch:
    """A share of the action tokens to go on from comes from another sample of the batch; the labels stay.

    Under teacher forcing the tokens before tell nearly all about the next one, and a network with little data
    learns to read them instead of the image.
    """
    if batch.labels is None or share == 0:
        return batch
    is_action = batch.labels != IGNORED
    tokens = batch.input_ids[is_action].view(len(batch), -1)
    others = tokens[torch.from_numpy(rng.permutation(len(batch)))]
    mixed = torch.where(torch.from_numpy(rng.random(tuple(tokens.shape)) < share), others, tokens)
    return replace(batch, input_ids=batch.input_ids.masked_scatter(is_action, mixed))


def depth_estimates(
    model: SpatialVLA,
    samples: EpisodeSamples,
    progress: Callable[[int], None] = lambda frames: None,
) -> np.ndarray:
    """The frozen estimator's depth of every frame, (N, H, W) float16 metres; computed once, kept as a file.

    The file's name tells the frames and the estimator's weights, so neither can change unnoticed.
    progress: told the number of frames after each batch.
    """
    digest = hashlib.sha256()
    for name, tensor in model.vision_zoe_model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    path = samples.folder / f"estimates-{samples.images.shape[1]}px-{digest.hexdigest()[:16]}.npy"
    if path.is_file():
        return np.load(path, mmap_mode="r")

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(samples), ESTIMATE_BATCH):
            frames = torch.from_numpy(np.array(samples.images[start : start + ESTIMATE_BATCH]))
            pixels = frames.permute(0, 3, 1, 2).to(model.device).float() / 255
            with torch.no_grad():
                yield model.vision_zoe_model.estimate(pixels).cpu().numpy().astype(np.float16)
            progress(len(frames))

    return write_array(path, samples.images.shape[:3], np.dtype(np.float16), blocks())

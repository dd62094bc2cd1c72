"""The batches of a run, as one rank sees them: training's without end, and the held-out ones."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from spatialvla.common.cache_folder import cache_folder
from spatialvla.data.batches import evaluation_batches, training_batches
from spatialvla.data.episodes import EpisodeSource
from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.data.samples import ReadOptions
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.training.config import TrainConfig
from spatialvla.training.feed.estimated_depth import with_estimated_depth
from spatialvla.training.feed.replacements import Replacements
from spatialvla.training.parallel.world import World
from spatialvla.training.run.progress import Progress

_REMOTE_AT_ONCE = 16
"""Samples that a process reads at a time where all datasets lie at URLs: so many wait for the network at a time.

Such are RLDS.
"""


class Feed:
    """This rank's share of every batch of a run; each is a function of its step alone.

    replacements: samples of this rank that stand for damaged ones; whoever trains on a batch notes it there.
    """

    def __init__(
        self,
        config: TrainConfig,
        mixture: TrainingMixture,
        model: SpatialVLA,
        processor: Processor,
        world: World,
        progress: Progress,
    ) -> None:
        """Computes the frozen estimator's depth of each sample's frame where the datasets are in memory."""
        self.config, self.mixture, self.processor, self.world = config, mixture, processor, world
        self.replacements = Replacements()
        sensor, mix = config.depth == "sensor", config.guidance.depth_mix
        other: tuple[EpisodeSource, ...] = ()
        estimated = config.in_memory and model.config.use_vision_zoe and (not sensor or mix > 0)
        if estimated:
            estimates = _with_estimated_depth(mixture, model, config, world, progress)
            other = estimates if sensor else mixture.sources
            if not sensor:
                self.mixture = replace(mixture, sources=estimates)
        self.options = ReadOptions(
            config.augmentation,
            sensor or estimated,
            config.on_bad,
            other,
            mix if estimated else 0.0,
            model.config.needs_extrinsics,
            model.config.cameras[1:],
            model.config.state_size > 0,
            config.camera_dropout,
            config.state_dropout,
            _REMOTE_AT_ONCE if all("://" in dataset.path for dataset in config.datasets) else 1,
        )

    def training(self, first_step: int, batch_size: int | None = None) -> Iterator[LoadedBatch]:
        """From the `first_step` on, without end. batch_size: over all ranks, the run's unless given."""
        config, world = self.config, self.world
        batches = training_batches(
            self.mixture,
            self.processor,
            (batch_size or config.batch_size) // world.size,
            self.options,
            rank=world.rank,
            ranks=world.size,
            workers=config.workers,
            first_step=first_step,
        )
        # Beside a GPU the next batch is made meanwhile; a CPU is busy anyway.
        ahead = config.workers == 0 and world.device.type != "cpu"
        return _ahead(batches) if ahead else batches

    def validation(self) -> Iterator[LoadedBatch]:
        """The held-out samples as they are, in passes as large as training's."""
        config, world = self.config, self.world
        return self.replacements.told(
            evaluation_batches(
                self.mixture,
                self.processor,
                max(1, config.batch_size // world.size // config.parts(world.size)),
                config.eval_frames,
                self.options,
                rank=world.rank,
                ranks=world.size,
                workers=config.workers,
            )
        )


def _with_estimated_depth(
    mixture: TrainingMixture, model: SpatialVLA, config: TrainConfig, world: World, progress: Progress
) -> tuple[EpisodeSource, ...]:
    cache = (config.cache or cache_folder()) / "depth"
    frames = sum(int(found.samples.sum()) for found in mixture.surveys) * len(model.config.cameras)
    with progress.counting("depth of each sample's frame", frames) as told:
        return world.on_main_first(
            lambda: tuple(
                with_estimated_depth(source, found.lengths, model, cache, told)
                for source, found in zip(mixture.sources, mixture.surveys, strict=True)
            )
        )


def _ahead(batches: Iterator[LoadedBatch]) -> Iterator[LoadedBatch]:
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, batches)
        while True:
            ready = upcoming.result()
            upcoming = pool.submit(next, batches)
            yield ready

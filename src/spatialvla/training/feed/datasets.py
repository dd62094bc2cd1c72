"""What a run trains on, behind one interface: one small dataset in memory, or many read as they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np

from spatialvla.actions.grids import ActionGrid, Bins
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.common.cache_folder import cache_folder
from spatialvla.data.episodes import Episode, EpisodeSource
from spatialvla.data.in_memory import EpisodeSamples, IndexStream
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.loader import LoadedBatch, evaluation_batches, make_loader
from spatialvla.data.oxe.mixtures import GRID_EXCLUDED
from spatialvla.data.sources import find_dataset, open_source
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.geometry.camera import Camera
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.feed.in_memory import BatchSource, depth_estimates
from spatialvla.training.guidance.privileged import PrivilegedTargets
from spatialvla.training.parallel.world import World
from spatialvla.training.run.progress import Progress

_SOME_EPISODES = 1_000  # whose instructions a new tokenizer is made from


class TrainingData(Protocol):
    """The datasets of a run, as one rank sees them. `begin` comes before batches.

    keys: of the datasets. fingerprint: changes when what is drawn would. target_size: numbers an auxiliary head
    regresses, 0 without one.
    """

    @property
    def keys(self) -> tuple[str, ...]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def target_size(self) -> int: ...

    def statistics(self) -> dict[str, ActionStatistics]:
        """Of the actions, by key."""

    def cameras(self) -> dict[str, Camera]:
        """Those that are known, by key."""

    def instructions(self) -> list[str]:
        """Many of them, for a new tokenizer."""

    def fit_grid(self, bins: Bins, min_sigma: float) -> ActionGrid:
        """One action grid for all datasets."""

    def begin(self, model: SpatialVLA, processor: Processor, progress: Progress) -> None:
        """What takes the finished model and processor, once."""

    def batches(self, first_step: int) -> Iterator[LoadedBatch]:
        """This rank's share of every step from `first_step` on, without end; a function of the step alone."""

    def validation(self) -> Iterable[LoadedBatch]:
        """This rank's share of the held-out samples, as they are."""


def open_data(config: TrainConfig, network: SpatialVLAConfig, world: World) -> TrainingData:
    """The datasets a configuration names. Raises InputError or CheckpointError where one cannot be used."""
    return MemoryData(config, network, world) if config.in_memory else MixtureData(config, world)


class MemoryData:
    """One LeRobot dataset, decoded once, with the numbers that `Guidance` needs."""

    def __init__(self, config: TrainConfig, network: SpatialVLAConfig, world: World) -> None:
        (dataset,) = config.datasets
        self.config, self.world = config, world
        root = find_dataset(dataset.path)
        self.key = dataset.key or root.resolve().name
        self.samples = world.on_main_first(
            lambda: EpisodeSamples.open(
                root, network.action_chunk_size, network.image_size, dataset.camera, config.cache
            )
        )
        split = self.samples.split(config.held_out, config.seed)
        self.training, self.held_out = (self.samples.lessons(frames) for frames in split)
        self.stream = IndexStream(self.training, config.batch_size, config.seed)
        guidance = config.guidance
        self.targets = (
            PrivilegedTargets(self.samples, guidance.privileged) if guidance.privileged_weight > 0 else None
        )

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    @property
    def fingerprint(self) -> str:
        return self.samples.fingerprint

    @property
    def target_size(self) -> int:
        return self.targets.size if self.targets else 0

    def statistics(self) -> dict[str, ActionStatistics]:
        return {self.key: self.samples.statistics()}

    def cameras(self) -> dict[str, Camera]:
        if self.samples.intrinsics is None:
            return {}
        height, width = self.samples.images.shape[1:3]
        return {self.key: Camera(np.median(self.samples.intrinsics, axis=0), height, width)}

    def instructions(self) -> list[str]:
        return list(self.samples.instructions)

    def fit_grid(self, bins: Bins, min_sigma: float) -> ActionGrid:
        return self.samples.fit_grid(bins, min_sigma)

    def begin(self, model: SpatialVLA, processor: Processor, progress: Progress) -> None:
        """The frozen estimator's depth of every frame is computed here, too."""
        config = self.config
        estimates = None
        if model.config.use_vision_zoe and (config.depth == "estimate" or config.guidance.depth_mix > 0):
            with progress.counting("depth of every frame", len(self.samples)) as told:
                estimates = self.world.on_main_first(lambda: depth_estimates(model, self.samples, told))
        self.source = BatchSource(self.samples, processor, self.key, config, estimates)

    def batches(self, first_step: int) -> Iterator[LoadedBatch]:
        made = map(self._batch, count(first_step))
        # Beside a GPU the next batch is made meanwhile; a CPU is busy anyway.
        return made if self.world.device.type == "cpu" else _ahead(made)

    def _batch(self, step: int) -> LoadedBatch:
        indices = self.world.part(self.stream.batch(step))
        batch = self.source.training(indices, step, self.world.rank)
        targets = None if self.targets is None else self.targets.batch(indices)
        return LoadedBatch(
            batch,
            self.samples.chunks(indices),
            np.zeros(len(indices), int),
            self._names(indices),
            targets=targets,
        )

    def validation(self) -> Iterator[LoadedBatch]:
        frames = min(self.config.eval_frames, len(self.held_out)) // self.world.size * self.world.size
        places = np.linspace(0, max(len(self.held_out) - 1, 0), frames).round().astype(int)
        chosen = self.world.part(self.held_out[places])
        size = max(1, self.config.batch_size // self.world.size)
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            yield LoadedBatch(
                self.source.evaluation(part),
                self.samples.chunks(part),
                np.zeros(len(part), int),
                self._names(part),
            )

    def _names(self, indices: np.ndarray) -> tuple[str, ...]:
        episodes = self.samples.episodes[indices]
        frames = indices - self.samples.starts[episodes]
        return tuple(f"{self.key} episode {e} step {f}" for e, f in zip(episodes, frames, strict=True))


class MixtureData:
    """Any number of datasets of any size and kind, decoded in workers."""

    def __init__(self, config: TrainConfig, world: World) -> None:
        self.config, self.world = config, world
        cache = config.cache or cache_folder()
        sources = [_open(dataset, config, cache) for dataset in config.datasets]
        # Rank 0 reads everything once; the others find what it found.
        self.mixture = world.on_main_first(
            lambda: TrainingMixture.open(
                sources,
                [dataset.weight for dataset in config.datasets],
                config.held_out,
                config.seed,
                config.missing_instruction,
                config.on_bad,
                max(1, config.workers),
                cache / "surveys",
            )
        )

    target_size = 0

    @property
    def keys(self) -> tuple[str, ...]:
        return self.mixture.keys

    @property
    def fingerprint(self) -> str:
        parts = [
            f"{source.fingerprint} {weight}"
            for source, weight in zip(self.mixture.sources, self.mixture.weights, strict=True)
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def statistics(self) -> dict[str, ActionStatistics]:
        return self.mixture.statistics()

    def cameras(self) -> dict[str, Camera]:
        first = {
            source.key: source.episode(_first(found.lengths)).camera
            for source, found in zip(self.mixture.sources, self.mixture.surveys, strict=True)
        }
        return {key: camera for key, camera in first.items() if camera is not None}

    def instructions(self) -> list[str]:
        texts: set[str] = set()
        for source, found in zip(self.mixture.sources, self.mixture.surveys, strict=True):
            episodes = np.flatnonzero(found.instructed)
            some = episodes[:: max(1, len(episodes) // _SOME_EPISODES)]
            texts.update(source.episode(int(index)).instruction for index in some)
        return sorted(texts)

    def fit_grid(self, bins: Bins, min_sigma: float) -> ActionGrid:
        excluded = {key for key in self.keys if key.split("/")[0] in GRID_EXCLUDED}
        return self.mixture.fit_grid(bins, min_sigma, excluded if excluded < set(self.keys) else ())

    def begin(self, model: SpatialVLA, processor: Processor, progress: Progress) -> None:
        self.processor = processor

    def batches(self, first_step: int) -> Iterator[LoadedBatch]:
        config, world = self.config, self.world
        loader = make_loader(
            self.mixture,
            self.processor,
            config.batch_size // world.size,
            augmentation=config.augmentation,
            rank=world.rank,
            ranks=world.size,
            workers=config.workers,
            depth=config.depth == "sensor",
            on_bad="replace" if config.on_bad == "skip" else "raise",
        )
        loader.load_state_dict({"step": first_step, "global_batch": config.batch_size})
        return iter(loader)

    def validation(self) -> Iterable[LoadedBatch]:
        config, world = self.config, self.world
        return evaluation_batches(
            self.mixture,
            self.processor,
            config.batch_size // world.size // config.accumulation,
            config.eval_frames,
            rank=world.rank,
            ranks=world.size,
            workers=config.workers,
            depth=config.depth == "sensor",
            on_bad="replace" if config.on_bad == "skip" else "raise",
        )


@dataclass(frozen=True)
class _Renamed:
    """A dataset under another key."""

    source: EpisodeSource
    key: str

    @property
    def control_hz(self) -> float:
        return self.source.control_hz

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def episode(self, index: int) -> Episode:
        return self.source.episode(index)


def _open(dataset: DatasetConfig, config: TrainConfig, cache: Path) -> EpisodeSource:
    mapping = None if dataset.mapping is None else FeatureMapping.load(dataset.mapping)
    if dataset.camera is not None:
        mapping = replace(mapping or FeatureMapping(), image=dataset.camera)
    source = open_source(dataset.path, mapping=mapping, spec=dataset.spec, on_bad=config.on_bad, cache=cache)
    return source if dataset.key is None else _Renamed(source, dataset.key)


def _first(lengths: np.ndarray) -> int:
    return int(np.flatnonzero(lengths)[0])


def _ahead(batches: Iterator[LoadedBatch]) -> Iterator[LoadedBatch]:
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, batches)
        while True:
            ready = upcoming.result()
            upcoming = pool.submit(next, batches)
            yield ready

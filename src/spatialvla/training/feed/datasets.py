"""The datasets of a run: opened, held in memory where that is asked for, surveyed and split."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spatialvla.actions.statistics_file import read_statistics
from spatialvla.common.cache_folder import cache_folder
from spatialvla.data.episodes import EpisodeSource, MovingChunks, OnBad, SourceWrapper
from spatialvla.data.every_view import beneath, views_of
from spatialvla.data.frame_cache import CachedSource
from spatialvla.data.needed_parts import check_parts, check_views
from spatialvla.data.sources import open_source
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.parallel.world import World
from spatialvla.training.run.progress import Progress


def open_mixture(
    config: TrainConfig, network: SpatialVLAConfig, world: World, progress: Progress
) -> TrainingMixture:
    """The datasets that a configuration names.

    Raises InputError or CheckpointError where one cannot be used.
    """
    return mixture_of(open_datasets(config, network), config, network, world, progress)


def open_datasets(config: TrainConfig, network: SpatialVLAConfig) -> list[EpisodeSource]:
    """The datasets that a configuration names, opened and not yet read. Raises InputError where one cannot be."""
    cache = config.cache or cache_folder()
    others, state = network.cameras[1:], config.state or network.state_size > 0
    return [open_dataset(dataset, cache, config.on_bad, others, state) for dataset in config.datasets]


def mixture_of(
    sources: Sequence[EpisodeSource],
    config: TrainConfig,
    network: SpatialVLAConfig,
    world: World,
    progress: Progress,
) -> TrainingMixture:
    """The datasets of a configuration once they are open, in its order. Raises as `open_mixture`."""
    opened = sources
    cache = config.cache or cache_folder()
    _check_parts(sources, config, network)
    given = None
    if config.statistics is not None:
        given = read_statistics(config.statistics, [source.key for source in sources])
    if config.in_memory:
        sources = [_in_memory(source, config, network.image_size, world, progress) for source in sources]
    sources = [MovingChunks(source, network.action_chunk_size) for source in sources]
    # Rank 0 reads everything once; the others find what it found.
    mixture = world.on_main_first(
        lambda: TrainingMixture.open(
            sources,
            [dataset.weight for dataset in config.datasets],
            config.held_out,
            config.seed,
            config.missing_instruction,
            config.on_bad,
            max(1, config.workers),
            cache / "surveys",
            config.shares,
            [len(views_of(source)) for source in opened],
            _origins([dataset.path for dataset in config.datasets], [source.key for source in sources]),
        )
    )
    return mixture if given is None else replace(mixture, given_statistics=given)


def _origins(paths: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Of each dataset the key of the first one at its path."""
    first: dict[str, str] = {}
    return [first.setdefault(os.path.realpath(path), key) for path, key in zip(paths, keys, strict=True)]


def _check_parts(sources: Sequence[EpisodeSource], config: TrainConfig, network: SpatialVLAConfig) -> None:
    """Raises InputError where no dataset has what the run asks for; what a policy had before may be missing."""
    new = config.cameras[1:] or config.add_camera
    state_needed = config.state or config.add_state > 0
    # A new network's state is as the datasets have it; where none has any, each size is too much.
    sizes = [network.state_size, *(len(source.state_names) for source in sources), int(state_needed)]
    size = next(filter(None, sizes), 0)
    for source in sources:
        check_views(views_of(source))
    check_parts(
        [view for source in sources for view in views_of(source)],
        network.cameras,
        size,
        network.needs_extrinsics,
        config.depth == "sensor" or config.guidance.depth_mix > 0,
        new,
        state_needed,
    )


def open_dataset(
    dataset: DatasetConfig,
    cache: Path,
    on_bad: OnBad = "raise",
    cameras: Collection[str] = (),
    state: bool = False,
    pictures: bool = True,
) -> EpisodeSource:
    """One dataset, with its mapping and under its key. Raises InputError where it is none or they do not fit.

    cache: folder of what is downloaded or indexed. on_bad: what becomes of RLDS shards that break off. cameras: names
    of those beside the first to read. state: whether the arm's state is read. pictures: as of `open_source`.
    """
    source = open_source(
        dataset.path,
        mapping=dataset.mapping,
        spec=dataset.spec,
        on_bad=on_bad,
        cache=cache,
        copy=dataset.copy,
        cameras=cameras,
        state=state,
        pictures=pictures,
        through=dataset.first_cameras,
    )
    key = dataset.key
    return source if key is None else beneath(source, lambda named: _Renamed(named, key))


def _in_memory(
    source: EpisodeSource, config: TrainConfig, size: int, world: World, progress: Progress
) -> EpisodeSource:
    cache = (config.cache or cache_folder()) / "frames"

    def cached(dataset: EpisodeSource) -> EpisodeSource:
        with progress.counting(f"frames of {dataset.key}", len(dataset)) as told:
            return world.on_main_first(lambda: CachedSource(dataset, size, cache, config.on_bad, told))

    return beneath(source, cached)


@dataclass(frozen=True)
class _Renamed(SourceWrapper):
    """A dataset under another key."""

    name: str

    @property
    def key(self) -> str:
        return self.name

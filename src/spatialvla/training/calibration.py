"""A model's weights rounded to 4 bits, calibrated on samples of datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from spatialvla.batch import Batch
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.batches import training_batches
from spatialvla.data.samples import ReadOptions
from spatialvla.model.quantization.calibration import quantize_decoder
from spatialvla.model.quantization.network import quantize
from spatialvla.model.quantization_entry import Quantization
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.feed.datasets import open_mixture
from spatialvla.training.parallel.world import World
from spatialvla.training.run.progress import Progress

_AT_ONCE = 8
"""Samples that go through a layer together."""


def quantize_on(
    model: SpatialVLA,
    processor: Processor,
    options: Quantization,
    datasets: Sequence[DatasetConfig] = (),
    samples: int = 128,
    done: Callable[[int], object] = lambda layer: None,
) -> None:
    """Rounds a model's weights to 4 bits in place; the decoder's are fitted to samples of the datasets, if any.

    The samples are the same whenever it is called. done: as of `quantize_decoder`.
    Raises InputError or CheckpointError for a dataset that cannot be used or a model that is quantized.
    """
    if datasets and model.config.quantization is None:
        quantize_decoder(model, calibration_batches(model, processor, datasets, samples), done)
    quantize(model, options)


def calibration_batches(
    model: SpatialVLA, processor: Processor, datasets: Sequence[DatasetConfig], samples: int
) -> list[Batch]:
    """Batches with labels of so many samples, or a few more, drawn as a run's are, but not augmented."""
    config, network = TrainConfig(datasets=tuple(datasets), workers=0), model.config
    mixture = open_mixture(config, network, World(), Progress(config, None))
    reading = ReadOptions(
        Augmentation.off(),
        extrinsics=network.needs_extrinsics,
        cameras=network.cameras[1:],
        state=network.state_size > 0,
    )
    loaded = training_batches(mixture, processor, _AT_ONCE, reading)
    return [part.batch.to(model.device) for part in islice(loaded, -(-samples // _AT_ONCE))]

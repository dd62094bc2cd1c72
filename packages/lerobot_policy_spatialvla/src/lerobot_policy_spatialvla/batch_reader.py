"""LeRobot's batches -> samples, as spatialvla reads them from a dataset: views, state, prompt and chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lerobot_policy_spatialvla.configuration_spatialvla import SpatialVLAConfig
from lerobot_policy_spatialvla.frames import stored_rows
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.lerobot import Feature
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.form import EpisodeForm
from spatialvla.data.samples import ReadOptions, Sample, SampleReader
from spatialvla.errors import InputError
from spatialvla.model.config import SpatialVLAConfig as NetworkConfig
from spatialvla.processor import Processor


class BatchReader:
    """Reads rows of batches for one policy. dataset: whose camera is assumed where a batch tells none."""

    def __init__(
        self,
        config: SpatialVLAConfig,
        network: NetworkConfig,
        processor: Processor,
        mapping: FeatureMapping,
        dataset: str | None,
    ) -> None:
        self.config, self.network, self.processor = config, network, processor
        self.mapping, self.dataset = mapping, dataset
        self._forms: dict[tuple[str, ...], EpisodeForm] = {}

    def to_learn(self, batch: Mapping[str, Any], rng: np.random.Generator, augmented: bool) -> list[Sample]:
        """What is seen and done in each row. rng: what augmentation and dropout draw from, where there are such.

        Raises InputError for what the model cannot be trained on, CheckpointError for numbers that cannot be.
        """
        options = self._options
        if augmented:
            run = self.config.run()
            options = replace(
                options,
                augmentation=self.config.augmentation,
                camera_dropout=run.camera_dropout,
                state_dropout=run.state_dropout,
            )
        return self._samples(batch, options, rng, acted=True)

    def to_act(self, batch: Mapping[str, Any]) -> list[Sample]:
        """What is seen in each row. Raises InputError for what the model cannot use, CheckpointError as above."""
        return self._samples(batch, self._options, np.random.default_rng(0), acted=False)

    @property
    def _options(self) -> ReadOptions:
        """Frames as they are."""
        return ReadOptions(
            Augmentation.off(),
            depth=self.config.objective.depth == "sensor",
            extrinsics=self.network.needs_extrinsics,
            cameras=self.network.cameras[1:],
            state=self.network.state_size > 0,
        )

    def _samples(
        self, batch: Mapping[str, Any], options: ReadOptions, rng: np.random.Generator, acted: bool
    ) -> list[Sample]:
        features = {
            name: feature
            for name, feature in self.config.features.items()
            if isinstance(batch.get(name), torch.Tensor)
        }
        form = self._form(features, acted)
        reader = SampleReader(self.processor, options, self.dataset or "default", 0, rng)
        samples = []
        for row, stored in enumerate(stored_rows(batch, features, self.config.depth_unit)):
            where = f"Row {row} of LeRobot's batch"
            still = np.zeros((1, 7))
            episode = form.episode(stored, where) if acted else form.acted(stored, still, 0, where)
            if acted and not len(episode.starts):
                raise InputError(
                    f"{where} has no picture of its own step, as {form.camera.present} says; LeRobot draws every "
                    "frame, so train with spatialvla finetune."
                )
            samples.append(reader.sample(episode, row, "", ()))
        return samples

    def _form(self, features: Mapping[str, Feature], acted: bool) -> EpisodeForm:
        """Cameras and state, as far as the batch has their features."""
        key = (*features, str(acted))
        if key not in self._forms:
            self._forms[key] = EpisodeForm.of(self.mapping, features, self.network.cameras[1:], acted)
        return self._forms[key]

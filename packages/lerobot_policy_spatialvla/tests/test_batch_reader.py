"""What of LeRobot's batches can be learned from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lerobot_policy_spatialvla.batch_reader import BatchReader
from spatialvla import Processor
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.lerobot import Feature
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.errors import InputError

IMAGE, PRESENT = "observation.images.top", "observation.present.top"


def test_a_step_with_the_picture_of_another_is_refused_in_training_alone():
    features = {
        IMAGE: Feature(IMAGE, "video", (64, 64, 3)),
        PRESENT: Feature(PRESENT, "bool", (1,)),
        "action": Feature("action", "float32", (7,)),
    }
    config = SimpleNamespace(
        features=features,
        depth_unit="mm",
        objective=SimpleNamespace(depth="estimate"),
        augmentation=Augmentation.off(),
    )
    network = SimpleNamespace(needs_extrinsics=False, cameras=("image",), state_size=0)
    reader = BatchReader(config, network, Processor.from_pretrained("nano"), FeatureMapping(), None)

    def batch(there):
        return {
            IMAGE: torch.zeros(2, 3, 64, 64),
            PRESENT: torch.tensor([[True], [there]]),
            "action": torch.zeros(2, 4, 7),
            "task": ["push", "pull"],
        }

    assert len(reader.to_learn(batch(True), np.random.default_rng(0), False)) == 2
    assert len(reader.to_act(batch(False))) == 2
    with pytest.raises(InputError, match=f"Row 1 .* no picture of its own step, as {PRESENT} says; LeRobot"):
        reader.to_learn(batch(False), np.random.default_rng(0), False)

"""What the tests of training share: the tiny network as a preset, a dataset, and a run's configuration."""

from dataclasses import fields

import pytest
from tiny_policy import BINS, tiny, write_dataset

from spatialvla.data.augmentation import Augmentation
from spatialvla.model.presets import PRESETS
from spatialvla.training.config import DatasetConfig, Guidance, TrainConfig

GUIDANCE = {field.name for field in fields(Guidance)}


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", tiny)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture
def make_config(dataset, tmp_path):
    """(**changes) -> TrainConfig; what is Guidance's goes there, and key= names the dataset's statistics."""

    def make(key=None, **changes):
        guidance = {name: changes.pop(name) for name in list(changes) if name in GUIDANCE}
        settings = {
            "datasets": (DatasetConfig(str(dataset), key=key),),
            "guidance": Guidance(**guidance),
            "out": tmp_path / "run",
            "cache": tmp_path / "cache",
            "in_memory": True,
            "trackers": ("tensorboard",),
            "preset": "tiny",
            "bins": BINS,
            "depth": "sensor",
            "freeze_text_embeddings": False,
            "augmentation": Augmentation.off(),
            "steps": 6,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "warmup": 0.1,
            "held_out": 0.25,
            "eval_every": 1000,
            "save_every": 1000,
            "log_every": 1,
        }
        return TrainConfig(**(settings | changes))

    return make

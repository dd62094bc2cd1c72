"""What the tests of training share: the tiny network as a preset, a dataset, and a run's configuration."""

from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import save_file
from tiny_policy import BINS, BRIDGE, tiny, write_dataset

from spatialvla.data.augmentation import Augmentation
from spatialvla.model.presets import PRESETS
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.config import DatasetConfig, Guidance, TrainConfig
from spatialvla.training.loop import train
from spatialvla.training.recipes import finetune

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


@pytest.fixture
def depth_weights(tmp_path):
    """Of an estimator that nobody trained: what it says does not matter here."""
    torch.manual_seed(1)
    weights = {name: t.contiguous() for name, t in SpatialVLA(tiny()).vision_zoe_model.state_dict().items()}
    (tmp_path / "depth").mkdir()
    save_file(weights, tmp_path / "depth" / "model.safetensors")
    return tmp_path / "depth"


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A checkpoint that knows one dataset."""
    folder = tmp_path_factory.mktemp("start")
    PRESETS["tiny"] = tiny
    config = TrainConfig(
        datasets=(DatasetConfig(str(write_dataset(folder / "squares"))),),
        out=folder / "run",
        cache=folder / "cache",
        in_memory=True,
        preset="tiny",
        bins=BINS,
        depth="sensor",
        steps=2,
        batch_size=8,
        learning_rate=1e-3,
    )
    return train(config, device="cpu").model


@pytest.fixture
def make(start, dataset, tmp_path):
    """A fine-tuning of that checkpoint, by default on an RLDS and a LeRobot dataset."""

    def make(mode="full", datasets=(BRIDGE, dataset), **changes):
        settings = {
            "policy": str(start),
            "out": tmp_path / "run",
            "steps": 3,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "workers": 0,
            "cache": tmp_path / "cache",
            "precision": "fp32",
            "held_out": 0.25,
            "eval_frames": 16,
            "eval_every": 1000,
            "save_every": 1000,
            "log_every": 1,
        }
        settings["datasets"] = tuple(
            DatasetConfig(str(path), weight) for path, weight in zip(datasets, (1, 2), strict=False)
        )
        return replace(finetune(mode), **(settings | changes))

    return make

"""What the processes that `test_kills.py` kills do."""

import torch
from tiny_policy import tiny

from spatialvla.model.presets import PRESETS
from spatialvla.training.loop import train


def work(config):
    """The run, from its newest checkpoint if there is one."""
    torch.set_num_threads(1)
    PRESETS["tiny"] = tiny  # type: ignore[index]
    train(config, resume=True, device="cpu")

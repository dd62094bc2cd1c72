"""LeRobot's own commands, called in this process, on the samples in this repository."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import pytest
import torch
from lerobot.scripts import lerobot_train

import lerobot_policy_spatialvla  # noqa: F401  # LeRobot's commands import it by themselves

ROOT = Path(__file__).parents[3]
CHECKPOINT = ROOT / "tests" / "goldens" / "reference" / "checkpoint"
"""A published checkpoint in small, with chunks of two steps."""
WIDOWX = ROOT / "tests" / "data" / "lerobot_v3"
DEPTH = ROOT / "tests" / "data" / "lerobot_v3_depth"
MAPPING = """\
image: observation.images.top
gripper: {min: -1, max: 1}
intrinsics: {K: [[230, 0, 128], [0, 230, 128], [0, 0, 1]], height: 256, width: 256}
units: {meters: 1.0, radians: 1.0, rotation: euler, frame: base}
"""
Command = Callable[..., None]


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    """What the features of `WIDOWX` mean."""
    path = tmp_path / "widowx.yaml"
    path.write_text(MAPPING)
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Calls a command of LeRobot's with these words."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(script: ModuleType, *words: object) -> None:
        monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, words)])
        script.main()
        # What a command leaves behind in its process: LeRobot's log, our setting of the CPU.
        logging.getLogger().handlers.clear()
        torch.set_flush_denormal(False)

    return call


@pytest.fixture
def train(command: Command) -> Callable[..., Path]:
    """Trains with lerobot-train; gives the folder of the last checkpoint's policy."""

    def call(out: Path, dataset: Path | None, *words: object) -> Path:
        told = (
            [] if dataset is None else [f"--dataset.root={dataset}", f"--dataset.repo_id=lab/{dataset.name}"]
        )
        told += (
            [] if dataset is None else ["--policy.push_to_hub=false", "--policy.device=cpu", "--batch_size=2"]
        )
        told += [] if dataset is None else [f"--output_dir={out}", "--num_workers=0", "--log_freq=1"]
        command(lerobot_train, *told, *words)
        return out / "checkpoints" / "last" / "pretrained_model"

    return call

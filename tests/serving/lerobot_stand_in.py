"""Classes with the names and fields of LeRobot's own, so that pickle writes and reads what its client does."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch

HELPERS = "lerobot.async_inference.helpers"


@dataclass
class RemotePolicyConfig:
    policy_type: str
    pretrained_name_or_path: str
    lerobot_features: dict[str, Any]
    actions_per_chunk: int
    device: str = "cpu"
    rename_map: dict[str, str] = field(default_factory=dict)


@dataclass
class TimedObservation:
    timestamp: float
    timestep: int
    observation: dict[str, Any]
    must_go: bool = False


@dataclass
class TimedAction:
    timestamp: float
    timestep: int
    action: torch.Tensor


@pytest.fixture(scope="module", autouse=True)
def lerobot() -> Iterator[None]:
    """Modules with LeRobot's names for as long as the tests here run, so that pickle finds the classes by them."""
    modules = {}
    for name in ("lerobot", "lerobot.async_inference", HELPERS):
        modules[name] = ModuleType(name)
    for kind in (RemotePolicyConfig, TimedObservation, TimedAction):
        kind.__module__ = HELPERS
        setattr(modules[HELPERS], kind.__name__, kind)
    sys.modules.update(modules)
    yield
    for name in modules:
        del sys.modules[name]

"""Where the numbers of a run are written: metrics.jsonl always, and the trackers asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol, get_args

from spatialvla.common.extras import needs_extra
from spatialvla.common.files import replacing
from spatialvla.common.json_files import parse_value
from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError
from spatialvla.training.options import TrackerName

PROJECT = "spatialvla"


class Tracker(Protocol):
    """A service or file format that draws a run's numbers."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of one step by name."""

    def close(self) -> None:
        """Called once, behind the last numbers."""


class RunLog:
    """The run's numbers, one JSON object a line in metrics.jsonl, and the same for each tracker."""

    def __init__(
        self, folder: Path, first_step: int, trackers: Sequence[TrackerName], settings: Mapping[str, Any]
    ) -> None:
        """Drops the lines of steps after `first_step`: a killed run wrote them, a resumed one repeats.

        settings: of the run, for trackers that keep them. Raises InputError for a tracker that is not installed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        drop_lines(self.path, first_step)
        self._trackers = [_open(name, folder, first_step, settings) for name in trackers]

    def write(self, step: int, kind: str, numbers: Mapping[str, float]) -> None:
        """kind: 'train', 'validation' or 'rollout'."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind, **numbers}) + "\n")
        for tracker in self._trackers:
            tracker.write(step, {f"{kind}/{name}": value for name, value in numbers.items()})

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers:
            tracker.close()


class _TensorBoard:
    def __init__(self, folder: Path, first_step: int) -> None:
        board = _module("tensorboard").SummaryWriter
        self._board = board(str(folder / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self) -> None:
        self._board.close()


class _HostedRun:
    """W&B, or trackio, which has the same calls. A resumed run goes on under its folder's name."""

    def __init__(self, module: ModuleType, folder: Path, settings: Mapping[str, Any], **options: Any) -> None:
        self._module = module
        module.init(project=PROJECT, name=folder.name, config=dict(settings), **options)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._module.log(dict(numbers), step=step)

    def close(self) -> None:
        self._module.finish()


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raises InputError for a tracker that is unknown or not installed."""
    for name in names:
        _module(name)


def _open(name: TrackerName, folder: Path, first_step: int, settings: Mapping[str, Any]) -> Tracker:
    match name:
        case "tensorboard":
            return _TensorBoard(folder, first_step)
        case "wandb":
            own = {"id": folder.resolve().name, "dir": str(folder)}
            return _HostedRun(_module(name), folder, settings, resume="allow", **own)
        case "trackio":
            return _HostedRun(_module(name), folder, settings, resume="allow")


def _module(name: TrackerName) -> ModuleType:
    if name not in get_args(TrackerName):
        raise InputError(f"There is no tracker {name!r}; {did_you_mean(name, get_args(TrackerName))}")
    if name == "tensorboard":
        with needs_extra("train", "The tracker tensorboard"):
            return import_module("torch.utils.tensorboard")
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"The tracker {name} is not installed ({error}); run pip install {name}, or leave it out."
        ) from error


def drop_lines(path: Path, step: int) -> None:
    """Drops the lines of steps after `step` from a file of JSON objects, if there is one."""
    if path.exists():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
        with replacing(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step(line: str) -> float:
    try:
        return float(parse_value(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return float("inf")

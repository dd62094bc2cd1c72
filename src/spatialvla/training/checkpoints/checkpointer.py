"""Checkpoints of a run, by any number of processes: complete or not there, and enough to go on bit for bit."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from spatialvla.common.files import inside
from spatialvla.common.json_files import read_json, write_json
from spatialvla.common.schema import parse
from spatialvla.errors import CheckpointError
from spatialvla.training.checkpoints.shards import FileRecord, ShardReader, ShardWriter, flush
from spatialvla.training.checkpoints.tensors import (
    AVERAGE,
    RANDOM,
    WEIGHTS,
    Trained,
    frozen_weights,
    make_optimizer_state,
    named_tensors,
    random_state,
    set_random_state,
    written_bytes,
)
from spatialvla.training.parallel.world import World

T = TypeVar("T")

FOLDER = "checkpoints"
"""Where a run keeps them, inside its own folder."""

PARTIAL = ".partial-"


@dataclass(frozen=True)
class Moment:
    """Where a run stands, beside its tensors. All values are what JSON can hold.

    step: steps done. seconds: time the run has taken so far.
    identity: what must not change when the run goes on.
    skipped: batches left out so far, as their loss was no number.
    documents: written as <name>.json beside the tensors: the configuration, statistics, grid.
    """

    step: int
    seconds: float
    identity: Mapping[str, Any]
    skipped: int = 0
    documents: Mapping[str, Any] = field(default_factory=dict)


class Checkpointer:
    """The checkpoints of one run in `folder`, step_XXXXXXXX each; all but the last `keep` are deleted.

    `newest`, `save` and `load` are collective, and `folder` must be one that all ranks see.
    """

    def __init__(self, folder: Path, keep: int, world: World | None = None, seed: int = 0) -> None:
        """seed: of the random numbers after loading on another number of ranks."""
        self.folder = folder
        self.keep = keep
        self.world = world or World()
        self.seed = seed

    def newest(self) -> Path | None:
        """The newest checkpoint, None without any."""
        return self.world.on_main(lambda: next(reversed(complete(self.folder)), None))

    def moment(self, path: Path) -> Moment:
        """Where the run stood, without its tensors. Raises CheckpointError where it cannot be read."""
        record = self._readable(path, lambda: _Record.read(path))
        documents = self._readable(path, lambda: {name: _read_json(path, name) for name in record.documents})
        return Moment(record.step, record.seconds, record.identity, record.skipped, documents)

    def save(self, trained: Trained, moment: Moment) -> Path:
        """Writes under a temporary name, to the disk, then renames.

        Raises CheckpointError where there is no room.
        """
        world = self.world
        target = self.folder / f"step_{moment.step:08d}"
        partial = self.folder / f"{PARTIAL}{target.name}"
        tensors = named_tensors(trained) | random_state(world)
        (needed,) = world.sum([sum(written_bytes(name, tensor, world) for name, tensor in tensors.items())])
        world.on_main(lambda: self._prepare(partial, needed))
        writer = ShardWriter(partial, world.rank)
        with _dcp_errors(f"{target} cannot be written"):
            save_tensors(tensors, storage_writer=writer)

        def publish() -> None:
            record = _Record(
                moment.step,
                moment.seconds,
                dict(moment.identity),
                moment.skipped,
                world.size,
                sorted(moment.documents),
                writer.files,
            )
            for name, document in moment.documents.items():
                _write_json(partial / f"{name}.json", document)
            _write_json(partial / "state.json", asdict(record))
            flush(partial)
            if target.exists():
                _delete(target)
            partial.rename(target)
            flush(self.folder)
            for old in complete(self.folder)[: -self.keep]:
                _delete(old)

        world.on_main(publish)
        return target

    def load(self, trained: Trained, path: Path) -> Moment:
        """Puts the tensors into place, and this rank's random state where as many ranks saved it.

        Raises CheckpointError where the checkpoint is damaged, or is not this model's.
        """
        world = self.world
        record = self._readable(path, lambda: _Record.read(path))
        # Each file is read once by some rank, whatever rank needs it.
        damage = world.gather(_damage(path, record.files[world.rank :: world.size]))
        if any(damage):
            raise self._unreadable(path, "; ".join(filter(None, damage)))
        reader = self._readable(path, lambda: ShardReader(path, [file.name for file in record.files]))
        saved = reader.tensors()
        make_optimizer_state(trained, saved)
        # Earlier versions kept more or less of what is frozen; the rest is as the run's files have it.
        frozen = frozen_weights(trained)
        tensors = {
            name: tensor
            for name, tensor in (named_tensors(trained) | frozen).items()
            if name in saved or name not in frozen
        }
        strange = {name for name in saved if not name.startswith(RANDOM)} ^ set(tensors)
        if strange:
            raise CheckpointError(
                f"{path} does not fit this configuration: {min(strange)} and {len(strange) - 1} more tensors "
                "are in only one of the two."
            )
        same = record.ranks == world.size
        random = {
            name: torch.empty_like(value) for name, value in random_state(world).items() if name in saved
        }
        with _dcp_errors(f"{path} does not fit this configuration"):
            load_tensors(tensors | (random if same else {}), storage_reader=reader)
        if same:
            set_random_state(random, world)
        else:
            words = np.random.SeedSequence([self.seed, record.step, world.rank]).generate_state(2)
            torch.manual_seed(int(words[0]) << 32 | int(words[1]))
        return self.moment(path)

    def _prepare(self, partial: Path, needed: float) -> None:
        for leftover in self.folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        free = shutil.disk_usage(partial).free
        if needed > free:
            partial.rmdir()
            raise CheckpointError(
                f"A checkpoint in {self.folder} takes {needed / 1e9:.2f} GB and only {free / 1e9:.2f} GB are "
                "free; make room or choose another output folder."
            )

    def _readable(self, path: Path, read: Callable[[], T]) -> T:
        try:
            return read()
        except (CheckpointError, OSError, ValueError, KeyError, TypeError) as error:
            raise self._unreadable(path, str(error).rstrip(".")) from error

    def _unreadable(self, path: Path, why: str) -> CheckpointError:
        older = [other for other in complete(self.folder) if other < path]
        advice = (
            f"delete it to go on from {older[-1].name}" if older else "there is none before it; start anew"
        )
        return CheckpointError(f"{path} is damaged: {why}; {advice}.")


def complete(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest last."""
    return sorted(path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{8}", path.name))


def load_weights(run: Path, average: bool = True) -> dict[str, torch.Tensor]:
    """The whole weights of a run's newest checkpoint by parameter name, on the CPU; for one process.

    run: the run's folder. average: takes the averaged weights where the run keeps such.
    Raises CheckpointError where there is no checkpoint, or it is damaged.
    """
    found = complete(run / FOLDER)
    if not found:
        raise CheckpointError(f"{run} holds no checkpoint; give the folder of a training run.")
    path = found[-1]
    try:
        files = _Record.read(path).files
        for file in files:
            file.check(path)
        reader = ShardReader(path, [file.name for file in files])
        weights = reader.whole(WEIGHTS)
        return weights | reader.whole(AVERAGE) if average else weights
    except (CheckpointError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).rstrip('.')}.") from error


@dataclass(frozen=True)
class _Record:
    """state.json. ranks: how many saved, each with its random state."""

    step: int
    seconds: float
    identity: dict[str, Any]
    skipped: int
    ranks: int
    documents: list[str]
    files: list[FileRecord]

    @classmethod
    def read(cls, path: Path) -> _Record:
        """Raises ValueError where it is not what was written."""
        record = parse(cls, _read_json(path, "state"), "state")
        for name in (*record.documents, *(file.name for file in record.files)):
            if inside(path, name).parent != path:
                raise ValueError(f"state.json names {name!r}, which is outside the checkpoint")
        return record


def _damage(path: Path, files: list[FileRecord]) -> str:
    """What is wrong with the first damaged file, or nothing."""
    try:
        for file in files:
            file.check(path)
    except (CheckpointError, OSError) as error:
        return str(error)
    return ""


@contextmanager
def _dcp_errors(what: str) -> Iterator[None]:
    """A rank's failure, which DCP brings to all, as one sentence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is")  # one process is what is meant
        try:
            yield
        except CheckpointException as error:
            reason = next(iter(error.failures.values()))[0]
            raise CheckpointError(f"{what}: {reason}") from error


def _read_json(folder: Path, name: str) -> Any:
    return read_json(folder / f"{name}.json")


def _write_json(path: Path, content: object) -> None:
    write_json(path, content, checksum=True)
    flush(path)


def _delete(folder: Path) -> None:
    """Gone at once by name, so that a kill leaves no half of it."""
    doomed = folder.with_name(f"{PARTIAL}old-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)

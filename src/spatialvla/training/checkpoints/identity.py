"""What a run must have in common with the one that it goes on with: all settings and files that shape it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.folders import LAYOUT, base_name, is_adapter, resolve_base, resolve_folder
from spatialvla.processor import Processor
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.options import LoggingOptions
from spatialvla.training.run.lasting_names import CHECKPOINTS, instructions_file

MAY_DIFFER = frozenset(
    {
        *("out", "cache"),  # where things lie
        *("steps", "epochs", "minutes"),  # how long the run is
        *("workers", "accumulation", "activation_checkpointing", "compile"),  # who computes, and how fast
        *("on_bad", "skip_bad_batches"),  # what becomes of damage
        *("eval_frames", *(field.name for field in fields(LoggingOptions))),  # what is told on the way
    }
)
"""Settings that may be others when a run goes on. docs/how-to/cluster.md says so to users."""

_BY_CONTENTS = (".path", ".mapping", ".spec")  # of a dataset
_WHOLE, _BLOCK, _BLOCKS = 1 << 20, 4096, 64
"""Bytes up to which a file is read whole; of larger ones, so many bytes at so many positions."""

Identity = Mapping[str, Any]
"""Values by the dotted names of the settings; of files, {"name": as given, "content": what is in them}."""


def settings_identity(config: TrainConfig) -> dict[str, Any]:
    """Of all settings but `MAY_DIFFER`, and of the files that they name; the datasets themselves are apart.

    Raises CheckpointError where a checkpoint cannot be found.
    """
    found: dict[str, Any] = {}
    for name, value in _settings(config).items():
        if value is not None and (name in CHECKPOINTS or isinstance(value, Path)):
            path = _place(name, value)
            found[name] = {"name": str(value), "content": _content(path)}
            if name in CHECKPOINTS and is_adapter(path) and not (name == "policy" and config.base):
                found[f"{name}.base"] = {"name": base_name(path), "content": _base_content(path)}
        else:
            found[name] = value
    return found


def datasets_identity(config: TrainConfig, mixture: TrainingMixture) -> dict[str, Any]:
    """Of what is read from each dataset, wherever it lies."""
    return {
        f"datasets.{number}": {"name": dataset.path, "content": content}
        for number, (dataset, content) in enumerate(zip(config.datasets, mixture.contents, strict=True))
    }


def check_identity(out: Path, begun: Identity | None, now: Identity) -> None:
    """Raises InputError, with both values of each, where settings in `now` are not as the run was begun with.

    begun: None where there is no run yet. A setting that an older version did not know had its default value, and an
    adapter's base, into which it did not look, is as it was.
    """
    if begun is None:
        return
    datasets = (DatasetConfig(""),) * now["datasets.count"]
    default = _settings(TrainConfig(datasets=datasets))
    differ = []
    for name in now:
        old, new = begun.get(name, default.get(name, now[name])), now[name]
        if not _same(old, new):
            before, after = _short(old), _short(new)
            differ.append(
                f"{name} {after} has changed" if before == after else f"{name} was {before}, is {after}"
            )
    if differ:
        raise InputError(
            f"{out} cannot be resumed with other settings than it was begun with ({'; '.join(differ)}); give "
            "those, or choose another --out."
        )


def check_processor(run: Path, now: Processor) -> None:
    """Raises InputError where a processor gives prompts or actions other tokens than the one that a run keeps.

    Small differences of numbers count for nothing, as machines and versions round differently.
    """
    try:
        kept = Processor.from_pretrained(run / LAYOUT)
    except CheckpointError:
        return
    what = None
    if kept.tokenizer.to_str() != now.tokenizer.to_str():
        what = "prompts would be encoded otherwise, by another tokenizer"
    elif not _close(_scales(kept, now), _scales(now, kept)):
        what = "actions or states would be encoded otherwise, by another grid or other statistics"
    if what is not None:
        raise InputError(
            f"{run} cannot be resumed, as {what} than it was begun with; give the same settings and files to the "
            "version of spatialvla that began it, or choose another --out."
        )


def _scales(of: Processor, other: Processor) -> list[np.ndarray]:
    """The numbers by which a processor encodes actions and states of the datasets that another knows, too."""
    grid = [np.asarray(getattr(of.grid, field.name)) for field in fields(of.grid)]
    known: list[ActionStatistics | StateStatistics] = [
        *(one for key, one in sorted(of.statistics.items()) if key in other.statistics),
        *(one for key, one in sorted(of.state_statistics.items()) if key in other.state_statistics),
    ]
    return [*grid, *(bound for one in known for bound in (one.q01, one.q99))]


def _close(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return all(
        a.shape == b.shape and np.allclose(a, b, 1e-4, 1e-6) for a, b in zip(some, others, strict=True)
    )


def _place(name: str, value: str | Path) -> Path:
    """The file or folder that a setting names."""
    if name in CHECKPOINTS:
        return resolve_folder(value)
    return instructions_file(Path(value)) if name == "instructions" else Path(value)


def _settings(config: TrainConfig) -> dict[str, Any]:
    return {
        name: value
        for name, value in _flat(asdict(config))
        if name.split(".")[0] not in MAY_DIFFER
        and not (name.startswith("datasets.") and name.endswith(_BY_CONTENTS))
    }


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values in nested ones, by dotted names."""
    if isinstance(value, tuple) and any(isinstance(one, Mapping) for one in value):
        yield f"{name}.count", len(value)
        value = dict(enumerate(value))
    if isinstance(value, Mapping) and name != "rate_factors":
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else str(key))
    else:
        yield name, list(value) if isinstance(value, tuple) else value


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, Mapping) and isinstance(new, Mapping) and "content" in new:
        # Earlier versions did not look into what is shipped or was fetched.
        return bool(old["name"] == new["name"] if old["content"] == "" else old["content"] == new["content"])
    return bool(old == new)


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "content" in value:
        return str(value["name"])
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 70 else f"{text[:67]}…"


def _content(path: Path) -> str:
    """Of a file, or of the JSON and weights in a folder; the same wherever they lie and whenever they were written."""
    if path.is_dir():
        names = (*sorted(path.glob("*.json")), *sorted(path.glob("*.safetensors")))
        return _digest("\n".join(f"{file.name} {_content(file)}" for file in names).encode())
    if not path.is_file():
        return ""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            return _digest(file.read())
        parts = [str(size).encode()]
        for number in range(_BLOCKS):
            file.seek(number * (size - _BLOCK) // (_BLOCKS - 1))
            parts.append(file.read(_BLOCK))
    return _digest(b"".join(parts))


def _base_content(adapter: Path) -> str:
    """Of an adapter's base, and of its base's where that is an adapter, too."""
    base = resolve_base(adapter)
    own = _content(base)
    return _digest(f"{own} {_base_content(base)}".encode()) if is_adapter(base) else own


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]

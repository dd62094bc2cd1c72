"""Files of statistics: read as the published code and OpenVLA write them, and written for several datasets at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.common.dataset_keys import unversioned
from spatialvla.common.json_files import read_json, write_json
from spatialvla.errors import CheckpointError, InputError

DEFAULT = "default"
"""The entry that serves each dataset without one of its own."""

_STATES = "proprio"


@dataclass(frozen=True, eq=False)
class DatasetStatistics:
    """What a dataset is normalized by. states: of how the arm stands; None where that is not known."""

    actions: ActionStatistics
    states: StateStatistics | None = None


def read_statistics(file: Path, keys: Sequence[str]) -> dict[str, DatasetStatistics]:
    """The statistics that a file holds of some datasets, by their keys.

    file: what `write_statistics` wrote, the published code's ds_stats.json, OpenVLA's dataset_statistics.json (an
    entry for each dataset), the dataset_statistics_….json that either keeps beside one RLDS dataset, or a
    checkpoint's processor_config.json. An entry `default` serves datasets without one. Where an entry has no mask
    all dimensions but the gripper are normalized, as the published loader adds it. States are as `proprio` says,
    unless that is missing, unusable or all the same, as published files fill it where nothing is known.
    Raises InputError where the file cannot be read, or holds nothing of one of the datasets.
    """
    content = read_json(file, "give statistics as the published code or OpenVLA writes them", InputError)
    if "action" in content and len(keys) == 1:
        content = {keys[0]: content}
    entries = content.get("statistics", content)
    found = {}
    for key in keys:
        entry = _entry(key, entries)
        if entry is None:
            held = ", ".join(sorted(entries)) if isinstance(entries, dict) else "no entries"
            raise InputError(
                f"{file} has no statistics of {key}, but {held}; name another file, or the dataset so (key)."
            )
        try:
            masked = {"mask": [True] * 6 + [False], **entry["action"]}
            actions = ActionStatistics.from_json({**entry, "action": masked})
        except (CheckpointError, KeyError, TypeError):
            raise InputError(
                f"{file} holds no usable statistics of {key}; they need q01 and q99 of 7 finite numbers each."
            ) from None
        found[key] = DatasetStatistics(actions, _states(entry))
    return found


def write_statistics(file: Path, statistics: DatasetStatistics) -> None:
    """Writes statistics that serve every dataset, whatever its key."""
    entry = statistics.actions.to_json()
    if statistics.states is not None:
        entry[_STATES] = statistics.states.to_json()
    write_json(file, {DEFAULT: entry}, indent=2)


def _entry(key: str, entries: Any) -> Any:
    """That of a dataset, or of its only other version, or the one for all."""
    if not isinstance(entries, dict):
        return None
    versions = [name for name in entries if unversioned(name) == unversioned(key)]
    return entries.get(key, entries[versions[0]] if len(versions) == 1 else entries.get(DEFAULT))


def _states(entry: Mapping[str, Any]) -> StateStatistics | None:
    try:
        found = StateStatistics.from_json(entry[_STATES])
    except (CheckpointError, InputError, KeyError):
        return None
    return found if (found.q01 < found.q99).any() else None

"""What 1 in a LeRobot dataset's actions is, as the dataset says itself."""

from __future__ import annotations

from pathlib import Path

from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.common.json_files import read_json, write_json
from spatialvla.errors import CheckpointError

_UNITS = "meta/action_units.json"
"""A file of our own; LeRobot does not look at it."""


def write_units(root: Path, units: ActionUnits) -> None:
    """The units of `action`, beside info.json."""
    write_json(root / _UNITS, units.to_json())


def stored_units(root: Path) -> ActionUnits:
    """What a dataset says of its `action`; UNKNOWN where it says nothing.

    Raises CheckpointError, naming the file, for what `write_units` does not write.
    """
    path = root / _UNITS
    if not path.is_file():
        return UNKNOWN
    try:
        return ActionUnits.from_json(read_json(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None

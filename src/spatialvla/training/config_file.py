"""A run's configuration as a file: written to be edited, read again, and kept by the run itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from spatialvla.common.entries import load_entries
from spatialvla.common.files import replacing
from spatialvla.common.json_files import read_json
from spatialvla.common.schema import changed
from spatialvla.errors import InputError
from spatialvla.training.config import TrainConfig

KEPT = "config.json"
"""The file, inside a run's folder, that says what the run is made of."""

_HEAD = """\
# Run it with --config and this file's name; options of the command line count for more than its entries.
# Entries that are left out are as the recipe says. The verb's --help says what each is for.
"""


def read_entries(file: Path) -> Mapping[str, Any]:
    """The entries of a YAML or JSON file, unchecked. Raises InputError where it holds none."""
    content = load_entries(file, "configuration")
    if not isinstance(content, Mapping):
        raise InputError(
            f"{file} holds no entries such as batch_size: 32; name a file that --write-config made."
        )
    return content


def with_entries(recipe: TrainConfig, entries: Mapping[str, Any], file: Path) -> TrainConfig:
    """A recipe with what a file's entries change. Raises InputError, naming file and entry, for wrong ones."""
    try:
        return changed(recipe, entries)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except ValueError as error:
        raise InputError(
            f"{file}: {str(error).rstrip('.')}{'' if str(error).endswith('?') else '.'}"
        ) from None


def write_config(config: TrainConfig, file: Path) -> None:
    """Writes a configuration as YAML, whole or not at all, that `read_entries` reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.to_json(), sort_keys=False, allow_unicode=True, width=110)
    with replacing(file) as partial:
        partial.write_text(_HEAD + text, encoding="utf-8")


def kept_config(run: Path) -> TrainConfig | None:
    """The configuration that a run keeps; None where the folder holds no run.

    Raises InputError where the file is damaged, or of another version of this package.
    """
    file = run / KEPT
    if not file.exists():
        return None
    entries = read_json(file, "resume with all of the run's options, or start a new run", InputError)
    return with_entries(TrainConfig(), entries, file)

"""Folders that a verb is to write: looked at before the work that would fill them."""

from __future__ import annotations

import os
from pathlib import Path

from spatialvla.errors import InputError


def check_output_folder(folder: Path, option: str = "--out") -> None:
    """Raises InputError where files cannot be written into a folder that is there, or is to be made. Makes nothing.

    option: what names it, for the sentence.
    """
    # What is there of the path, the folder itself or one above; of a link that leads nowhere, the link.
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not os.path.isdir(there):
        raise InputError(f"{folder} cannot be a folder, as {there} is none; choose another {option}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"{folder} cannot be written, as you may not write {there}; choose another {option}."
        )

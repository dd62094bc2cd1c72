"""Where a LeRobot dataset is: a folder, LeRobot's cache, or the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)

from spatialvla.errors import InputError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_INFO = "meta/info.json"


def lerobot_home() -> Path:
    """The folder in which lerobot keeps datasets, $HF_LEROBOT_HOME or its default. It may not exist."""
    return Path(os.path.expanduser(os.environ.get("HF_LEROBOT_HOME", "~/.cache/huggingface/lerobot")))


def find_dataset(
    path_or_name: str | Path,
    cache: Path | None = None,
    unneeded: Callable[[Path], Collection[str]] = lambda folder: (),
) -> Path:
    """The folder of a dataset: a path, a name in LeRobot's cache, or a Hub id, which is downloaded.

    cache: folder for what is downloaded; the Hub's own unless given. unneeded: features whose videos are not
    downloaded, told by a folder that holds info.json alone. Raises InputError where there is none.
    """
    home = lerobot_home()
    for folder in (Path(os.path.expanduser(path_or_name)), home / path_or_name):
        if folder.is_dir():
            return folder
    if not _HUB_ID.fullmatch(str(path_or_name)):
        raise InputError(f"There is no dataset {str(path_or_name)!r}, neither as a folder nor in {home}.")
    try:
        # Before gigabytes of something else are.
        info = Path(hf_hub_download(str(path_or_name), _INFO, repo_type="dataset", cache_dir=cache))
        left_out = [f"videos/*{feature}/*" for feature in unneeded(info.parents[1])]
        return Path(
            snapshot_download(
                str(path_or_name), repo_type="dataset", cache_dir=cache, ignore_patterns=left_out or None
            )
        )
    except (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OSError,
    ) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise InputError(
                f"{path_or_name} on the Hub is no LeRobot dataset: it has no {_INFO}; name an RLDS dataset there by "
                f"its address, such as hf://datasets/{path_or_name}/FOLDER."
            ) from None
        raise InputError(
            f"There is no dataset {str(path_or_name)!r}, neither as a folder nor in {home}, nor can it be "
            f"downloaded from the Hub ({type(error).__name__})."
        ) from None

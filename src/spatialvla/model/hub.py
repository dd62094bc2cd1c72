"""Checkpoints sent to the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from spatialvla.errors import InputError

_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(text: str) -> bool:
    """Whether this is written as a repository's id, `owner/name`, and is no folder here."""
    return bool(_ID.fullmatch(text)) and not Path(text).exists()


def upload_saved(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    token: str | bool | None,
    revision: str | None,
    private: bool,
) -> str:
    """Uploads what `save` writes into a folder, as `upload_folder` does; gives the repository's address."""
    with TemporaryDirectory() as folder:
        save(Path(folder))
        return upload_folder(Path(folder), repo_id, token=token, revision=revision, private=private)


def upload_folder(
    folder: Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    private: bool = False,
    message: str = "Upload a SpatialVLA checkpoint",
) -> str:
    """Uploads a checkpoint's folder in one commit, and gives the repository's address.

    token: None takes HF_TOKEN or what `hf auth login` left. revision: the branch; main unless given.
    private: of a repository that is made for it. Raises InputError for an id that cannot be, and where the Hub cannot
    be reached or does not let one in.
    """
    if not _ID.fullmatch(repo_id):
        raise InputError(f"{repo_id} is no id of the Hub; write owner/name.")
    api = HfApi(token=token)
    try:
        address = str(api.create_repo(repo_id, private=private, exist_ok=True))
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
    except OfflineModeIsEnabled:
        raise InputError(f"Nothing was uploaded to {repo_id}: HF_HUB_OFFLINE is set; unset it.") from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"Nothing was uploaded to {repo_id} ({reason}); check the network and who you are (`hf auth whoami`)."
        ) from None
    return address

"""Where checkpoint folders are: local, shipped with the package, or on the Hub."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from huggingface_hub import is_offline_mode, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from spatialvla.common.json_files import read_json
from spatialvla.common.manifest import MANIFEST, check_files
from spatialvla.errors import CheckpointError

SHIPPED = Path(__file__).parents[1] / "assets"
"""The folder of the checkpoints that come with the package."""

ADAPTER = "adapter_config.json"
"""The file that tells an adapter's folder from a whole checkpoint's."""

LAYOUT = "layout"
"""Where a training run keeps, inside its own folder, all of the model that is not weights."""

MODEL = "model"
"""Where a training run writes the policy when it has come to its end, and LeRobot's training each of its own."""

_REVISION = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*")
"""A branch, a tag or a commit; one with '..' would lead out of the folder of what was fetched."""

_PROCESSOR = "processor_config.json"

_NAME_IT = "name the right one with base=, on the command line --base"


def resolve_folder(
    path_or_id: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    *,
    fetch: bool = True,
) -> Path:
    """The local folder of a checkpoint: a path, the name of a shipped one ("nano", "nano-wrist"), or a Hub id.

    The folder of a training run stands for its newest model, that of a policy of LeRobot's for ours inside.
    revision, token: of the Hub's; the revision may also stand behind the id, owner/name@revision. Without a token it
    takes HF_TOKEN or what `hf auth login` left, and with HF_HUB_OFFLINE, or without `fetch`, only what was fetched
    before.
    Raises CheckpointError if there is no such folder and the Hub does not have it or cannot be reached, for a run
    that has no model yet, and where documents are not as the folder's manifest says, if it has one.
    """
    folder = _found(path_or_id, revision, token, fetch)
    check_files(folder)
    return folder


def _found(path_or_id: str | Path, revision: str | None, token: str | bool | None, fetch: bool) -> Path:
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        return _newest_model(folder) if is_run(folder) else _without_lerobot(folder)
    if is_at_hand(path_or_id):
        return SHIPPED / str(path_or_id)
    repo_id, at, named = str(path_or_id).partition("@")
    revision = named if at else revision
    if revision is not None and not _REVISION.fullmatch(revision):
        raise CheckpointError(
            f"{revision!r} is no revision of {repo_id} on the Hub; write a branch, a tag or a commit, such as "
            "owner/name@main."
        )
    try:
        wanted = ["*.json", "*.yaml", "*.safetensors", f"*{MANIFEST}"]
        fetched = snapshot_download(
            repo_id, revision=revision, allow_patterns=wanted, token=token, local_files_only=not fetch
        )
        return _without_lerobot(Path(fetched))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        names = ", ".join(sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))) or "none"
        hub = "a Hub id that can be reached from here"
        if isinstance(error, HFValidationError):
            hub = "a Hub id"
        elif is_offline_mode():
            hub = "a Hub id that was fetched before (HF_HUB_OFFLINE is set)"
        raise CheckpointError(
            f"{path_or_id!s} is not a checkpoint folder, a shipped model ({names}) or {hub}; check its name."
        ) from None


def is_at_hand(path_or_id: str | Path) -> bool:
    """Whether a checkpoint is a local folder or a shipped one, so that nothing is fetched for it."""
    shipped = re.fullmatch(r"[\w-]+", str(path_or_id)) and (SHIPPED / str(path_or_id)).is_dir()
    return bool(shipped) or Path(path_or_id).expanduser().is_dir()


def is_run(folder: Path) -> bool:
    """Whether a folder holds a training run."""
    return (folder / LAYOUT).is_dir()


def _without_lerobot(folder: Path) -> Path:
    """The folder, or the policy inside it where the files around that are LeRobot's."""
    inside = folder / MODEL
    return inside if (inside / _PROCESSOR).exists() and not (folder / _PROCESSOR).exists() else folder


def _newest_model(run: Path) -> Path:
    """The policy that a run ended with, or else the last one that it played with."""
    models = [*sorted((run / "rollouts").glob(f"step_*/{MODEL}")), run / MODEL]
    found = [folder for folder in models if (folder / _PROCESSOR).exists()]
    if not found:
        raise CheckpointError(
            f"{run} is a training run that has no model yet; make one of its newest checkpoint with "
            f"spatialvla export --policy {run} --out FOLDER."
        )
    return found[-1]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, which belongs onto a base in another folder."""
    return (folder / ADAPTER).exists()


def base_name(adapter: Path, base: str | Path | None = None) -> str:
    """What an adapter's base is called, from any working directory.

    adapter: its folder. base: in place of what adapter_config.json names. A relative path there begins in the
    working directory, as for peft, or in the adapter's folder.
    Raises CheckpointError where neither names one.
    """
    if base is not None:
        return lasting_name(base)
    file = adapter / ADAPTER
    named = read_json(file).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"{file} names no base; {_NAME_IT}.")
    beside = adapter / named
    return str(beside.resolve()) if beside.is_dir() and not Path(named).is_dir() else lasting_name(named)


def resolve_base(adapter: Path, base: str | Path | None = None) -> Path:
    """The folder of an adapter's base; arguments as of `base_name`.

    Raises CheckpointError where there is none, or it is the adapter itself.
    """
    name = base_name(adapter, base)
    try:
        folder = resolve_folder(name)
    except CheckpointError:
        if base is not None:
            raise
        raise CheckpointError(
            f"{adapter / ADAPTER} names the base {name}, which is no checkpoint folder, shipped model or Hub "
            f"id that can be reached; {_NAME_IT}."
        ) from None
    if folder.resolve() == adapter.resolve():
        raise CheckpointError(f"{adapter / ADAPTER} names its own folder as the base; {_NAME_IT}.")
    return folder


def lasting_name(path_or_id: str | Path) -> str:
    """The name of a checkpoint that holds from any working directory."""
    folder = Path(path_or_id).expanduser()
    return str(resolve_folder(folder).resolve()) if folder.is_dir() else str(path_or_id)


def stored_dtype(path_or_id: str | Path, base: str | Path | None = None) -> torch.dtype | None:
    """What config.json says the weights are stored in, an adapter's base's; None where it says nothing.

    base: as of `base_name`.
    """
    folder = resolve_folder(path_or_id)
    if is_adapter(folder):
        return stored_dtype(resolve_base(folder, base))
    path = folder / "config.json"
    config = read_json(path) if path.exists() else {}
    dtype = getattr(torch, str(config.get("dtype", config.get("torch_dtype"))), None)
    return dtype if isinstance(dtype, torch.dtype) else None

"""Open a dataset of any kind by its path, URL or name."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec

from spatialvla.data.episodes import EpisodeSource, OnBad
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.location import find_dataset
from spatialvla.data.lerobot.metadata import is_dataset as is_lerobot
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.oxe.specs import RLDSSpec
from spatialvla.data.rh20t.layout import is_rh20t
from spatialvla.data.rh20t.source import RH20TSource
from spatialvla.errors import InputError

__all__ = ["find_dataset", "open_source"]

_RLDS = "dataset_info.json"


def open_source(
    path: str | os.PathLike[str],
    *,
    mapping: FeatureMapping | str | Path | None = None,
    spec: RLDSSpec | str | None = None,
    on_bad: OnBad = "raise",
    cache: Path | None = None,
) -> EpisodeSource:
    """An RLDS folder, or the folder around its one version, local or at an fsspec URL; a LeRobot folder, its
    name in LeRobot's cache or a Hub id; or an RH20T folder.

    mapping: of a LeRobot dataset, or its YAML file. spec: of an RLDS dataset, or its name. on_bad: what
    becomes of RLDS shards that break off. cache: folder for what is indexed or downloaded, the user's own
    unless given.
    Raises InputError, saying what was looked for, where it is none of these, or for options of another kind.
    """
    name = os.fspath(path)
    folder = Path(name).expanduser()
    if is_rh20t(folder):
        _refuse(name, "an RH20T dataset", mapping=mapping, spec=spec)
        return RH20TSource(folder)
    rlds = None if is_lerobot(folder) else _rlds_folder(name)
    if rlds is not None:
        _refuse(name, "an RLDS dataset", mapping=mapping)
        return OXESource(rlds, spec, on_bad=on_bad, cache=cache)
    if "://" in name or (folder.exists() and not is_lerobot(folder)):
        raise InputError(
            f"{name} is no dataset: it holds neither {_RLDS} (RLDS; nor does one folder inside), nor "
            "meta/info.json (LeRobot), nor task_…_user_…_scene_…_cfg_… folders (RH20T)."
        )
    _refuse(name, "a LeRobot dataset", spec=spec)
    return LeRobotSource(name, mapping, cache)


def _rlds_folder(path: str) -> str | None:
    """The folder that has dataset_info.json: this one, or the only one inside that does."""
    try:
        files, folder = fsspec.core.url_to_fs(os.path.expanduser(path))
        if files.exists(f"{folder}/{_RLDS}"):
            return path
        inside = [entry["name"] for entry in files.ls(folder, detail=True) if entry["type"] != "file"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"{path} cannot be listed ({error}); check the path.") from None
    versions = [name.rsplit("/", 1)[-1] for name in inside if files.exists(f"{name}/{_RLDS}")]
    if len(versions) > 1:
        raise InputError(f"{path} has the versions {', '.join(sorted(versions))}; name one of them.")
    return f"{path.rstrip('/')}/{versions[0]}" if versions else None


def _refuse(name: str, kind: str, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{name} is {kind}, which takes no {option}; leave it out.")

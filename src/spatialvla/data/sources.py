"""Open a dataset of any kind by its path, URL or name."""

from __future__ import annotations

import os
from pathlib import Path

from spatialvla.data.episodes import EpisodeSource, OnBad
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.location import find_dataset
from spatialvla.data.lerobot.metadata import is_dataset as is_lerobot
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.oxe.copies import Copy
from spatialvla.data.oxe.folders import INFO, rlds_folder
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.oxe.spec_file import find_spec
from spatialvla.data.oxe.specs import RLDSSpec
from spatialvla.data.rh20t.layout import is_rh20t
from spatialvla.data.rh20t.source import RH20TSource
from spatialvla.errors import InputError

__all__ = ["find_dataset", "open_source"]


def open_source(
    path: str | os.PathLike[str],
    *,
    mapping: FeatureMapping | str | Path | None = None,
    spec: RLDSSpec | str | None = None,
    on_bad: OnBad = "raise",
    cache: Path | None = None,
    copy: Copy = "auto",
) -> EpisodeSource:
    """An RLDS folder, or the folder around its versions, local or at an fsspec URL; a LeRobot folder, its
    name in LeRobot's cache or a Hub id; or an RH20T folder.

    mapping: of a LeRobot dataset, or its YAML file. spec: of an RLDS dataset, its name, or its YAML file; of
    several versions the spec's is read. on_bad: what becomes of RLDS shards that break off. cache: folder for what
    is indexed or downloaded, the user's own unless given. copy: whether RLDS files have the known faults of the
    published ones; others ignore it.
    Raises InputError, saying what was looked for, where it is none of these, or for options of another kind.
    """
    name = os.fspath(path)
    folder = Path(name).expanduser()
    if is_rh20t(folder):
        _refuse(name, "an RH20T dataset", mapping=mapping, spec=spec)
        return RH20TSource(folder, cache=cache)
    found = find_spec(spec) if isinstance(spec, str) else spec
    rlds = None if is_lerobot(folder) else rlds_folder(name, found)
    if rlds is not None:
        _refuse(name, "an RLDS dataset", mapping=mapping)
        return OXESource(rlds, found, on_bad=on_bad, cache=cache, copy=copy)
    if "://" in name or (folder.exists() and not is_lerobot(folder)):
        raise InputError(
            f"{name} is no dataset: it holds neither {INFO} (RLDS; nor does one folder inside), nor "
            "meta/info.json (LeRobot), nor task_…_user_…_scene_…_cfg_… folders (RH20T)."
        )
    _refuse(name, "a LeRobot dataset", spec=spec)
    return LeRobotSource(name, mapping, cache)


def _refuse(name: str, kind: str, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{name} is {kind}, which takes no {option}; leave it out.")

"""Open a dataset of any kind by its path, URL or name."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from spatialvla.data.episodes import EpisodeSource, OnBad
from spatialvla.data.every_view import EveryView
from spatialvla.data.lerobot.feature_mapping import FeatureMapping, short_name
from spatialvla.data.lerobot.location import find_dataset
from spatialvla.data.lerobot.metadata import is_dataset as is_lerobot
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.needed_parts import NeededParts
from spatialvla.data.oxe.copies import Copy
from spatialvla.data.oxe.folders import INFO, holds_rlds, rlds_folder
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.oxe.spec import RLDSSpec
from spatialvla.data.oxe.spec_file import find_spec
from spatialvla.data.rh20t.layout import is_rh20t
from spatialvla.data.rh20t.source import RH20TSource
from spatialvla.errors import InputError

__all__ = ["dataset_kind", "find_dataset", "open_source"]

DatasetKind = Literal["RLDS", "LeRobot", "RH20T"]


def open_source(
    path: str | os.PathLike[str],
    *,
    mapping: FeatureMapping | str | Path | None = None,
    spec: RLDSSpec | str | None = None,
    on_bad: OnBad = "raise",
    cache: Path | None = None,
    copy: Copy = "auto",
    cameras: Collection[str] | None = None,
    state: bool = True,
    pictures: bool = True,
    through: Sequence[str] = (),
) -> EpisodeSource:
    """An RLDS folder, or the folder around its versions, local or at an fsspec URL; a LeRobot folder, its
    name in LeRobot's cache or a Hub id; or an RH20T folder.

    mapping: of a LeRobot dataset, or its YAML file. spec: of an RLDS dataset, its name, or its YAML file; of
    several versions the spec's is read. on_bad: what becomes of RLDS shards that break off. cache: folder for what
    is indexed or downloaded, the user's own unless given. copy: whether RLDS files have the known faults of the
    published ones; others ignore it. cameras: names of those beside the first to read; all unless given. state:
    whether the arm's state is read. pictures: whether any are looked at; if not, a LeRobot dataset of several
    cameras need not say which is the first, nor have its videos. through: RGB features of a LeRobot dataset to look
    through, not the mapping's first camera; of several, each shows each episode once.
    Raises InputError, saying what was looked for, where it is none of these, or for options of another kind.
    """
    name = os.fspath(path)
    kind = dataset_kind(name)
    if kind != "LeRobot":
        _refuse(name, kind, mapping=mapping or through or None)
    if kind != "RLDS":
        _refuse(name, kind, spec=spec)
    source: EpisodeSource
    if kind == "RH20T":
        source = RH20TSource(name, cache=cache)
    elif kind == "LeRobot":
        return _lerobot(name, mapping, cache, cameras, state, pictures, through)
    else:
        found = find_spec(spec) if isinstance(spec, str) else spec
        folder = rlds_folder(name, found)
        assert folder is not None
        source = OXESource(folder, found, on_bad=on_bad, cache=cache, copy=copy)
    return source if cameras is None and state else NeededParts(source, cameras, state)


def _lerobot(
    name: str,
    mapping: FeatureMapping | str | Path | None,
    cache: Path | None,
    cameras: Collection[str] | None,
    state: bool,
    pictures: bool,
    through: Sequence[str],
) -> EpisodeSource:
    """The arguments are those of `open_source`."""
    wanted = cameras
    if through:
        said = (
            mapping
            if isinstance(mapping, FeatureMapping) or mapping is None
            else FeatureMapping.load(mapping)
        )
        mapping = (said or FeatureMapping()).with_cameras(through)
        wanted = None if cameras is None else (*cameras, *through)
    opened = LeRobotSource(name, mapping, cache, wanted, pictures)
    first = opened.camera.image.name if pictures else ""
    called: dict[str, str | None] = {camera.image.name: name for name, camera in opened.others.items()}
    called[first] = None
    rgb = [name for name, feature in opened.dataset.features.items() if feature.is_rgb]
    if missing := [image for image in through if image not in (called if pictures else rgb)]:
        raise InputError(
            f"{opened.root}: there are the cameras {', '.join(rgb)}, not {missing[0]}; choose with --camera."
        )
    # Without pictures all cameras are the same.
    names = tuple(called[image] for image in through) if pictures else ()
    read = None if cameras is None else (*cameras, *filter(None, names))
    source = opened if cameras is None and state else NeededParts(opened, read, state)
    if names in ((), (None,)):
        return source
    own = short_name(first)
    return EveryView(source, names, first if own in opened.others else own, cameras)


def dataset_kind(path: str) -> DatasetKind:
    """What lies in a folder or at a URL. A name that is no folder is LeRobot's, there or on the Hub.

    Raises InputError, saying what was looked for, for a folder or URL that holds nothing known.
    """
    folder = Path(path).expanduser()
    if is_rh20t(folder):
        return "RH20T"
    if is_lerobot(folder):
        return "LeRobot"
    if holds_rlds(path):
        return "RLDS"
    if "://" in path or folder.exists():
        raise InputError(
            f"{path} is no dataset: it holds neither {INFO} (RLDS; nor does one folder inside), nor "
            "meta/info.json (LeRobot), nor task_…_user_…_scene_…_cfg_… folders (RH20T)."
        )
    return "LeRobot"


def _refuse(name: str, kind: DatasetKind, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            article = "an" if kind.startswith("R") else "a"
            what = "mapping or camera" if option == "mapping" else option
            raise InputError(f"{name} is {article} {kind} dataset, which takes no {what}; leave it out.")

"""Where RLDS datasets lie: under which of their names, and in the folder of which version."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec

from spatialvla.data.oxe.names import OTHER_NAMES, known_spec
from spatialvla.data.oxe.spec import RLDSSpec
from spatialvla.data.rlds.features import parse_info
from spatialvla.errors import InputError

INFO = "dataset_info.json"
"""The file by which a TFDS folder is known."""


@dataclass(frozen=True)
class _Folder:
    """One folder, local or at any fsspec URL. inner: its path as the file system has it."""

    path: str
    inner: str
    files: Any = field(repr=False)

    @classmethod
    def at(cls, path: str) -> _Folder:
        expanded = os.path.expanduser(path).rstrip("/") or "/"
        try:
            files, inner = fsspec.core.url_to_fs(expanded)
        except (ValueError, ImportError, OSError) as error:
            raise _unlisted(path, error) from None
        return cls(expanded, str(inner), files)

    @property
    def name(self) -> str:
        return _last(self.inner)

    @property
    def is_dataset(self) -> bool:
        return bool(self.files.exists(f"{self.inner}/{INFO}"))

    @property
    def own_name(self) -> str | None:
        """What the files of a version's folder call the dataset."""
        return parse_info(bytes(self.files.cat_file(f"{self.inner}/{INFO}")), f"{self.path}/{INFO}").name

    def folders(self) -> list[_Folder]:
        """Those inside, sorted by name; none where there is no such folder."""
        try:
            entries = self.files.ls(self.inner, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (ValueError, ImportError, OSError) as error:
            raise _unlisted(self.path, error) from None
        # Some file systems list the folder itself; a link is of another type than a folder.
        names = {
            _last(entry["name"]) for entry in entries if entry["type"] != "file" and not _is(entry, self)
        }
        return [_Folder(f"{self.path}/{name}", f"{self.inner}/{name}", self.files) for name in sorted(names)]


def holds_rlds(path: str) -> bool:
    """Whether there is dataset_info.json in the folder or in one inside."""
    folder = _Folder.at(path)
    return folder.is_dataset or any(inside.is_dataset for inside in folder.folders())


def rlds_folder(path: str, spec: RLDSSpec | None = None) -> str | None:
    """The folder that has dataset_info.json: `path`, or one of the versions inside; None where there is none.

    Of several versions it is that of the spec, which is `spec`, or that of the dataset's own name, or that of
    the folder's. Raises InputError, naming the versions, where that does not tell which.
    """
    folder = _Folder.at(path)
    if folder.is_dataset:
        return folder.path
    versions = {inside.name: inside for inside in folder.folders() if inside.is_dataset}
    if len(versions) <= 1:
        return next((found.path for found in versions.values()), None)
    wanted = spec or _spec_of(folder, versions.values())
    if wanted is None or wanted.version not in versions:
        why = (
            ""
            if wanted is None
            else f", of which none is {wanted.version}, as the spec of {wanted.name} says"
        )
        raise InputError(f"{path} has the versions {', '.join(sorted(versions))}{why}; name one of them.")
    return versions[wanted.version].path


def mixture_folders(names: Sequence[str], root: str) -> tuple[str, ...]:
    """The folder in `root` of each dataset: of its name, of one of its other names, or of any name if the
    files inside give it one of these.

    Raises InputError, naming all of them, for datasets that are not there.
    """
    inside = {folder.name: folder for folder in _Folder.at(root).folders()}
    found: dict[str, str] = {}
    for name in names:
        called = next((other for other in (name, *OTHER_NAMES.get(name, ())) if other in inside), None)
        if called is not None:
            found[name] = inside.pop(called).path
    if len(found) < len(names):
        for folder in inside.values():
            versions = [folder] if folder.is_dataset else [one for one in folder.folders() if one.is_dataset]
            spec = _own_spec(versions)
            if spec is not None and spec.name in names:
                found.setdefault(spec.name, folder.path)
    if missing := [name for name in names if name not in found]:
        raise InputError(
            f"{root} lacks {len(missing)} of the mixture's {len(names)} datasets: {', '.join(missing)}; put each "
            "into a folder of that name."
        )
    return tuple(found[name] for name in names)


def _spec_of(folder: _Folder, versions: Iterable[_Folder]) -> RLDSSpec | None:
    return _own_spec(versions) or known_spec(folder.name)


def _own_spec(versions: Iterable[_Folder]) -> RLDSSpec | None:
    names = (version.own_name for version in versions)
    return next((spec for name in names if name and (spec := known_spec(name))), None)


def _is(entry: Mapping[str, Any], folder: _Folder) -> bool:
    return str(entry["name"]).strip("/") == folder.inner.strip("/")


def _last(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _unlisted(path: str, error: Exception) -> InputError:
    if isinstance(error, ImportError):
        extra = path.partition("://")[0].replace("https", "http")
        return InputError(f"{path} needs a package for such addresses; run pip install 'fsspec[{extra}]'.")
    return InputError(f"{path} cannot be listed ({error}); check the path.")

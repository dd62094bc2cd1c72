"""SHA-256 of a folder's files in a file beside them, as `sha256sum` writes it and `sha256sum -c` checks it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Event

from spatialvla.common.files import file_state, replacing
from spatialvla.errors import CheckpointError

MANIFEST = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\0]+)")
_BLOCK = 4 * 1024**2


@contextmanager
def recording(folder: Path, names: Collection[str]) -> Iterator[None]:
    """The named files are written inside this block; from its end on the folder's manifest knows their contents.

    Files that are gone by then are dropped from the manifest. If the block is broken off, it knows none of `names`.
    """
    _write(folder, {name: known for name, known in _read_leniently(folder).items() if name not in names})
    yield
    kept = {name: known for name, known in _read_leniently(folder).items() if (folder / name).is_file()}
    _write(folder, kept | {name: _sha256(folder / name) for name in names})


def check_file(path: Path) -> None:
    """Raises CheckpointError where the folder's manifest knows other contents of a file; without one it passes."""
    known = _manifest(path.parent).get(path.name)
    if known is not None and _known_sha256(path, *file_state(path)) != known:
        raise _other(path)


def check_files(folder: Path, leave_out: str = ".safetensors") -> None:
    """`check_file` for all of a folder's files but those whose names end so, and that each of them is there."""
    for name in _manifest(folder):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name} is missing, which {MANIFEST} lists; copy or download it again."
            )
        if not name.endswith(leave_out):
            check_file(folder / name)


@contextmanager
def checking(files: Sequence[Path]) -> Iterator[None]:
    """`check_file` for large files while this block reads them, each on a thread of its own.

    Reading and hashing share what comes from the disk. Raises CheckpointError at the end of the block.
    """
    listed = [(path, known) for path in files if (known := _manifest(path.parent).get(path.name))]
    stop = Event()
    with ThreadPoolExecutor(max(1, min(len(listed), os.cpu_count() or 1))) as pool:
        hashes = [pool.submit(_sha256, path, stop) for path, _ in listed]
        try:
            yield
            for (path, known), found in zip(listed, hashes, strict=True):
                if found.result() != known:
                    raise _other(path)
        finally:
            stop.set()


def _other(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} has other contents than {MANIFEST} beside it says; copy or download it again, or delete its line "
        f"there if the file was changed on purpose."
    )


def _manifest(folder: Path) -> dict[str, str]:
    """SHA-256 by file name; empty where there is no manifest. Raises CheckpointError where it is damaged."""
    path = folder / MANIFEST
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy or download it again.") from None
    found = [_LINE.fullmatch(line) for line in lines if line.strip()]
    if None in found or len({match[2] for match in found if match}) != len(found):
        raise CheckpointError(f"{path} is no list of SHA-256 checksums; copy or download it again.")
    return {match[2]: match[1] for match in found if match}


def _read_leniently(folder: Path) -> dict[str, str]:
    """Nothing where the manifest is damaged: what is written next makes a new one."""
    try:
        return _manifest(folder)
    except CheckpointError:
        return {}


def _write(folder: Path, known: Mapping[str, str]) -> None:
    path = folder / MANIFEST
    if not known:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as partial:
        lines = (f"{known[name]}  {name}\n" for name in sorted(known))
        partial.write_text("".join(lines), encoding="utf-8")


@lru_cache(maxsize=256)
def _known_sha256(path: Path, *state: int) -> str:
    """Of a small file that several readers check one after the other. state: what changes with the file."""
    return _sha256(path)


def _sha256(path: Path, stop: Event | None = None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while (block := file.read(_BLOCK)) and not (stop and stop.is_set()):
            digest.update(block)
    return digest.hexdigest()

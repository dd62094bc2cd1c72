"""Files and folders that one process at a time may write."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from spatialvla.common.output_folder import check_output_folder
from spatialvla.errors import InputError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What file systems say that know no locks; there nobody can be kept out."""

_held: list[IO[str]] = []


@contextmanager
def claimed(path: Path, holder: str) -> Iterator[None]:
    """Nobody else writes `path` meanwhile; the claim ends with the process, however that ends.

    holder: what claims it, such as "training run", for the sentence.
    Raises InputError where another process has it, and where it cannot be written.
    """
    check_output_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"Another {holder} is writing {path}; choose another --out.") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        _held.append(lock)
        try:
            yield
        finally:
            if lock in _held:
                _held.remove(lock)


def _let_go() -> None:
    """Workers do not hold on to the claims of a parent that is gone."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go)

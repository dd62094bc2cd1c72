"""Where recordings go: a folder of files, or a viewer that runs."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic, sleep
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from spatialvla.errors import InputError

if TYPE_CHECKING:
    from rerun import RecordingStream

VIEWER = "viewer"
_PORT = 9876
_PATIENCE = 20.0  # seconds for a viewer to start
_UNUSUAL = re.compile(r"[^A-Za-z0-9_: -]+")
"""What Rerun would replace in the name of an application, with a warning for each recording."""


@dataclass(frozen=True)
class Destination:
    """One of the two: a folder, in which each episode becomes a file, or a viewer's address."""

    folder: Path | None = None
    url: str | None = None

    @classmethod
    def parse(cls, where: str) -> Destination:
        """A folder; `viewer`, which opens Rerun's viewer on this machine; or a viewer's `rerun+http://…/proxy`.

        Raises InputError where no viewer answers, and for a folder that cannot be written into.
        """
        if where == VIEWER:
            return cls(url=_opened_viewer())
        if "://" not in where:
            return cls(folder=_writable(where))
        host, port = _address(where)
        if not _answers(host, port):
            raise InputError(
                f"No Rerun viewer answers at {where}; start one with `rerun --bind 127.0.0.1`, or name a folder."
            )
        return cls(url=where)

    def open(self, name: str, application: str) -> RecordingStream:
        """A stream of its own for one episode. name: of the episode, which is the file's without `.rrd`.

        application: what the episode is one of many of; the viewer shows these together.
        """
        from rerun import RecordingStream

        stream = RecordingStream(_UNUSUAL.sub("-", application))
        stream.send_recording_name(name)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            stream.save(self.folder / f"{name}.rrd")
        else:
            stream.connect_grpc(self.url)
        return stream


def _writable(where: str) -> Path:
    """The folder, which is there and takes files: nobody is to learn at the end of a run that it does not."""
    try:
        if not where.strip():
            raise OSError("it has no name")
        Path(where).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=where):
            return Path(where)
    except (OSError, ValueError) as error:
        raise InputError(
            f"Recordings cannot be written into {where!r} ({error}); name another folder."
        ) from None


def _address(where: str) -> tuple[str, int]:
    try:
        address = urlsplit(where)
        host, port = address.hostname, address.port or _PORT
    except ValueError:  # of a port or an IPv6 address that cannot be
        host = None
    if host is None or address.scheme not in ("rerun+http", "rerun+https", "rerun"):
        raise InputError(
            f"{where} is no address of a Rerun viewer; those look like rerun+http://127.0.0.1:{_PORT}/proxy."
        )
    return host, port


def _opened_viewer() -> str:
    """The address of a viewer on this machine, which is started unless one runs. It listens to nobody else."""
    if not _answers("127.0.0.1", _PORT):
        command = [
            sys.executable,
            "-m",
            "rerun",
            "--bind",
            "127.0.0.1",
            "--port",
            str(_PORT),
            "--expect-data-soon",
        ]
        viewer = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = monotonic() + _PATIENCE
        while not _answers("127.0.0.1", _PORT):
            if viewer.poll() is not None or monotonic() > deadline:
                raise InputError(
                    "Rerun's viewer does not open here, perhaps for want of a display; name a folder for files, or "
                    "the address of a viewer that runs elsewhere."
                )
            sleep(0.1)
    return f"rerun+http://127.0.0.1:{_PORT}/proxy"


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False

"""An evaluation of the fake benchmark that kills itself at a chosen moment: OUT LOG MOMENT NUMBER."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fakes import FakeBenchmark, FakePolicy

from spatialvla.evaluation.play.runner import evaluate
from spatialvla.evaluation.results.policy_settings import PolicySettings


def die_at(moment: str, number: int) -> None:
    """Kills this process half-way through writing its results for the nth time, or right after that."""
    write_bytes, replace, count = Path.write_bytes, os.replace, 0

    def write(path: Path, content: bytes) -> int:
        nonlocal count
        count += 1
        if moment == "writing" and count == number:
            write_bytes(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write_bytes(path, content)

    def move(source: Path, target: Path) -> None:
        replace(source, target)
        if moment == "written" and count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    Path.write_bytes, os.replace = write, move  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    out, log, moment, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    die_at(moment, number)
    evaluate(
        FakePolicy(),
        "fake",
        3,
        benchmark=FakeBenchmark(played=log),
        settings=PolicySettings(),
        out=out,
        workers=2,
        checkpoint="abc",
    )

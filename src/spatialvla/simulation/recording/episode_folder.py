"""A folder of recorded episodes: what they have in common, so that a recording goes on with its own alone."""

from __future__ import annotations

import logging
from pathlib import Path

from spatialvla.common.json_files import read_json, write_json
from spatialvla.errors import InputError
from spatialvla.simulation.recording.config import RecordingConfig

_NOTE = "recording.json"

log = logging.getLogger(__name__)


def episode_file(folder: Path, task: int, episode: int) -> Path:
    """Where an episode of a task lies, or is to lie."""
    return folder / f"task_{task:02d}_episode_{episode:04d}.npz"


def claim(folder: Path, config: RecordingConfig) -> None:
    """Notes what all episodes of a folder have in common; they may differ in seed and policy.

    Raises InputError where the folder holds episodes of another suite, or seen otherwise.
    """
    note = folder / _NOTE
    alike = {
        "suite": config.suite,
        "further cameras": list(config.views.names),
        "draw_every": config.draw_every,
    }
    if note.exists():
        found = read_json(note, "delete the folder", InputError)
        other = [
            f"{name}: {found.get(name)}, not {alike[name]}"
            for name in alike
            if found.get(name) != alike[name]
        ]
        if other:
            raise InputError(
                f"{folder} holds episodes of another recording ({'; '.join(other)}); say the same again, or give "
                "another folder."
            )
        if (seed := found.get("seed")) != config.seed:
            log.warning(
                "%s has episodes of seed %s; what is missing gets seed %s.", folder, seed, config.seed
            )
    write_json(note, {**alike, "seed": config.seed}, checksum=True)

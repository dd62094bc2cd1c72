"""`spatialvla record`: demonstrations by the scripted expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from spatialvla.cli.bar import progress
from spatialvla.cli.verb import Verb
from spatialvla.simulation.recording.config import RecordingConfig


@dataclass(frozen=True)
class Record(Verb):
    """Record a scripted expert's demonstrations as a dataset."""

    config: Annotated[RecordingConfig, arg(name="")]

    def run(self) -> None:
        """Records, and says where the dataset is."""
        from spatialvla.simulation.recorders import record_demonstrations

        with progress("Recording") as report:
            record_demonstrations(self.config, report)
        print(f"Wrote {self.config.out}")

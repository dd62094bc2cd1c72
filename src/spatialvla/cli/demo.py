"""`spatialvla demo`: the shipped model drives LIBERO's arm, one episode a task."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from spatialvla.cli.verb import Verb


@dataclass(frozen=True)
class Demo(Verb):
    """Let the shipped small model play LIBERO-Spatial.

    It plays each task once; a report with videos is written.
    """

    out: Path = Path("runs/demo")
    """Folder for report.html, results.json and videos/."""

    def run(self) -> None:
        """Plays, and says where the report is."""
        from spatialvla.cli.evaluate import Evaluate
        from spatialvla.cli.policy_options import PolicyOptions

        Evaluate(
            PolicyOptions("nano"),
            suite="libero_spatial",
            episodes_per_task=1,
            out=self.out,
            command=shlex.join(["spatialvla", "demo", "--out", str(self.out)]),
        ).run()

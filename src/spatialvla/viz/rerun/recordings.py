"""The recordings of a run: one for each of its episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spatialvla.viz.rerun.destination import Destination
from spatialvla.viz.rerun.rig import Rig

if TYPE_CHECKING:
    from spatialvla.viz.rerun.episode import EpisodeRecording


@dataclass(frozen=True)
class Recordings:
    """Opens a recording for each episode; it can be sent to other processes.

    title: of the run; Rerun's viewer shows the recordings of one title together.
    """

    destination: Destination
    rig: Rig
    title: str

    def open(self, name: str, *, decides: bool = True) -> EpisodeRecording:
        """name: of the episode, and of its file without `.rrd`. decides: whether a policy drives."""
        from spatialvla.viz.rerun.episode import EpisodeRecording

        return EpisodeRecording(self.destination.open(name, self.title), self.rig, decides=decides)

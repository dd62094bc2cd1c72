"""What a worker plays, handed to Rerun where that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from spatialvla.evaluation.benchmarks.protocol import Environment
from spatialvla.evaluation.play.episode_video import episode_name
from spatialvla.evaluation.play.messages import Decided
from spatialvla.evaluation.results.plan import EpisodeId
from spatialvla.types import Observation
from spatialvla.viz.rerun.recordings import Recordings


class EpisodeRecorder:
    """Takes what happens in one episode; does nothing without `recordings`."""

    def __init__(self, recordings: Recordings | None, episode: EpisodeId, environment: Environment) -> None:
        self._environment = environment
        self._recording = recordings and recordings.open(episode_name(episode))
        self._first = recordings.rig.first_camera if recordings else ""

    def decided(self, step: int, observation: Observation, decided: Decided) -> None:
        """What was seen before a step, and what was chosen."""
        if self._recording:
            self._recording.show_cameras(
                step, observation.cameras(self._first), observation.instruction, decided.estimates
            )
            self._recording.show_gripper(step, self._environment.gripper_position)
            self._recording.show_chunk(step, decided.chunk, len(decided.actions))

    def moved(self, step: int, action: np.ndarray) -> None:
        """One step, which has been carried out."""
        if self._recording:
            self._recording.move(step, action)
            self._recording.show_gripper(step + 1, self._environment.gripper_position)

    def ended(self, step: int, observation: Observation, success: bool) -> None:
        """What is seen last, and how it ended."""
        if self._recording:
            self._recording.show_cameras(step, observation.cameras(self._first), observation.instruction)
            self._recording.end(step, success)

    def close(self) -> None:
        """Makes the file complete."""
        if self._recording:
            self._recording.close()


@contextmanager
def recorded(
    recordings: Recordings | None, episode: EpisodeId, environment: Environment
) -> Iterator[EpisodeRecorder]:
    """The recorder of an episode, whose file is complete afterwards, however it ends."""
    recorder = EpisodeRecorder(recordings, episode, environment)
    try:
        yield recorder
    finally:
        recorder.close()

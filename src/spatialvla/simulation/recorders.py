"""Which simulator records the demonstrations of a suite."""

from __future__ import annotations

from collections.abc import Callable

from spatialvla.simulation.libero.recorder import LiberoRecorder
from spatialvla.simulation.recording.config import RecordingConfig
from spatialvla.simulation.recording.recorder import Recorder, record
from spatialvla.simulation.widowx.env import SUITE
from spatialvla.simulation.widowx.recorder import WidowXRecorder


def recorder_of(suite: str) -> Recorder:
    """SimplerEnv's for its suite, and LIBERO's for all others."""
    return WidowXRecorder() if suite == SUITE else LiberoRecorder()


def record_demonstrations(
    config: RecordingConfig, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Records a suite into a LeRobot v3 dataset, see `recording.recorder.record`; raises InputError as that does."""
    record(recorder_of(config.suite), config, progress)

"""What the processes of an evaluation tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialvla.evaluation.benchmarks.protocol import Benchmark, Conventions
from spatialvla.evaluation.play.jobs import Job
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.types import ActionChunk, Observation
from spatialvla.viz.rerun.recordings import Recordings


@dataclass(frozen=True)
class Setup:
    """What every worker is told once. videos: folder for the MP4 files. recordings: Rerun's. None is none."""

    benchmark: Benchmark
    conventions: Conventions
    depth: bool
    videos: Path | None
    recordings: Recordings | None = None


@dataclass(frozen=True)
class Idle:
    """A worker asks for a job; the answer is a Job, or None to end."""


@dataclass(frozen=True)
class Built:
    """The environment stands; the first episode starts."""

    seconds: float


@dataclass(frozen=True)
class Decide:
    """A worker asks for actions; the answer is a Decided.

    step: steps executed so far in this episode; 0 starts a new one.
    """

    observation: Observation
    start_state: int
    step: int


@dataclass(frozen=True)
class Decided:
    """What to execute before asking again, and where it comes from.

    actions: (k, 7). estimates: depth by camera, (S, S) meters each, as far as it was estimated; for recordings.
    """

    actions: np.ndarray
    chunk: ActionChunk
    estimates: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Failure:
    """The worker ends after this. bad_input: the user can mend it, so `message` is one sentence."""

    message: str
    bad_input: bool


Message = Idle | Built | Decide | EpisodeResult
"""What a worker says while all is well."""
Answer = Job | Decided | None
"""What it is told: a job or the end where it is idle, actions where it asks to decide."""

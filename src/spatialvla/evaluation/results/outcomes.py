"""What came out: how single episodes ended, and how many of several succeeded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spatialvla.evaluation.results.episode_uncertainty import EpisodeUncertainty
from spatialvla.evaluation.results.intervals import wilson_interval
from spatialvla.evaluation.results.plan import EpisodeId


@dataclass(frozen=True)
class EpisodeResult:
    """One episode. Raises ValueError for numbers below 0.

    steps: after settling. seconds: wall time. video: path relative to the JSON file.
    partial: came part of the way at least (`Conventions.partial`); None where the benchmark does not say.
    uncertainty: of the policy; None unless it was asked for.
    chose: whether what it took first is what was meant; None where it took nothing, or had nothing to choose.
    """

    task: int
    start_state: int
    success: bool
    steps: int
    seconds: float
    video: str | None = None
    partial: bool | None = None
    uncertainty: EpisodeUncertainty | None = None
    chose: bool | None = None

    def __post_init__(self) -> None:
        for name in ("task", "start_state", "steps", "seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} of an episode is {getattr(self, name)}")

    @property
    def id(self) -> EpisodeId:
        """Which episode of the suite it was."""
        return EpisodeId(self.task, self.start_state)


@dataclass(frozen=True)
class Tally:
    """Successes among trials."""

    successes: int
    trials: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Tally:
        """Counts outcomes, True for a success."""
        listed = list(outcomes)
        return cls(sum(listed), len(listed))

    @property
    def rate(self) -> float:
        """Success rate in [0, 1]; 0 without trials."""
        return self.successes / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate."""
        return wilson_interval(self.successes, self.trials)

"""Whether the time between steps is what a dataset's rate says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_SAME = 0.02  # of a step: rounding, and clocks that differ
_LATE = 1.5  # steps


@dataclass
class StepTimes:
    """Filled episode by episode. control_hz: steps a second, as the dataset says."""

    control_hz: float
    episodes: int = 0
    steps: int = 0
    late: int = 0
    longest: float = 0.0
    """Seconds between two steps."""
    others: tuple[float, ...] = ()
    """Steps a second of the episodes that have another rate."""

    def add(self, timestamps: np.ndarray | None) -> None:
        """timestamps: (T,) seconds; None, or fewer than two, tell nothing."""
        if timestamps is None or len(timestamps) < 2:
            return
        between = np.diff(timestamps.astype(np.float64).reshape(-1))
        usual = float(np.median(between))
        self.episodes, self.steps = self.episodes + 1, self.steps + len(between)
        if not abs(usual * self.control_hz - 1) <= _SAME:
            self.others += (1 / usual if usual > 0 else 0.0,)
        late = between > _LATE * usual
        self.late += int(late.sum())
        self.longest = max(self.longest, float(between[late].max(initial=0.0)))

    def warnings(self) -> Iterator[str]:
        """A sentence for each thing that is wrong."""
        if self.others:
            yield (
                f"the timestamps tell {np.median(self.others):.4g} steps a second in {len(self.others)} of "
                f"{self.episodes} episodes, and the dataset says {self.control_hz:g} (fps); a policy would act at "
                "the wrong speed"
            )
        if self.late:
            yield (
                f"{self.late} of {self.steps} steps come more than half a step late, by their timestamps (up to "
                f"{self.longest:.3g} s after the one before); frames may have been dropped"
            )

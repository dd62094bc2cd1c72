"""What a recording of demonstrations is made of: one frozen configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spatialvla.common.checks import check_counts, check_not_negative
from spatialvla.errors import InputError

MOST_RANDOM_VIEWS = 8


@dataclass(frozen=True)
class RecordingConfig:
    """One dataset of demonstrations by the scripted expert."""

    out: Path
    """Folder of the dataset; a recording that was interrupted goes on."""

    suite: str = "libero_spatial"
    """A suite that an expert knows: libero_spatial, _object, _goal or _10, spatial_exam, or simpler_widowx."""

    tasks: tuple[int, ...] = ()
    """Numbers of the tasks to record; all of the suite's unless given."""

    episodes_per_task: int = 50
    """Successful episodes to store for each task."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that simulate and render."""

    seed: int = 0
    """Of start states and perturbations."""

    cameras: Literal["fixed", "random"] = "fixed"
    """random sees each demonstration from further cameras, too, which it draws anew around the workspace."""

    random_views: int = 2
    """How many of them, 1 to 8."""

    wrist: bool = False
    """See each demonstration through the camera on the wrist, too."""

    draw_every: int = 1
    """Draw every so many steps, and learn from these alone: more demonstrations in the same time."""

    depth: bool = True
    """Store the simulator's depth, too."""

    depth_video: Literal["none", "log", "linear"] = "none"
    """Store depth as 12-bit video in logarithmic or linear steps; none stores images in whole millimeters."""

    depth_range: tuple[float, float] = (0.01, 10.0)
    """Meters that depth video reaches from and to; what lies outside becomes not measured."""

    policy: str | None = None
    """Checkpoint that drives for stretches while the expert labels what it gets into (DAgger), if any."""

    unknown_units: bool = False
    """Let the policy drive though nobody says what 1 in its actions is."""

    episodes: Path | None = None
    """Folder of single episodes, kept for later recordings to add to; None removes them at the end."""

    def __post_init__(self) -> None:
        check_counts(episodes_per_task=self.episodes_per_task, workers=self.workers)
        check_not_negative(seed=self.seed)
        if not 1 <= self.random_views <= MOST_RANDOM_VIEWS:
            raise InputError(
                f"There can be 1 to {MOST_RANDOM_VIEWS} random views, not {self.random_views}; for none say "
                "cameras fixed."
            )
        if self.draw_every < 1:
            raise InputError(f"Every {self.draw_every} steps cannot be drawn; say draw_every 1 or more.")

    @property
    def views(self) -> Views:
        """The further cameras."""
        return Views(self.random_views if self.cameras == "random" else 0, self.wrist)


@dataclass(frozen=True)
class Views:
    """Which cameras see a demonstration beside the first. random: how many are drawn around the workspace."""

    random: int = 0
    wrist: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """As features are called after them."""
        return (*(f"random_{index}" for index in range(self.random)), *(("wrist",) if self.wrist else ()))

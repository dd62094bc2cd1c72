"""How often the scripted expert succeeds in SimplerEnv's WidowX tasks, through the benchmark's own `step`.

MS_ASSET_DIR=FOLDER python benchmarks/widowx_expert.py
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tyro

from spatialvla.evaluation.benchmarks.simpler import SUITES, SimplerBenchmark, SimplerTask
from spatialvla.evaluation.play.episode_video import write_video
from spatialvla.evaluation.report.markdown import markdown_table
from spatialvla.evaluation.report.tables import success_table
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.evaluation.results.provenance import installed_versions
from spatialvla.simulation.widowx.expert import WidowXExpert


@dataclass(frozen=True)
class Options:
    episodes: int = 24
    first: int = 0
    """Start state of the first episode."""
    tasks: tuple[int, ...] = (0, 1, 2, 3)
    out: Path = Path("runs/widowx_expert")
    videos: bool = False
    """Draw every step: five times as slow."""


def play(
    environment: SimplerTask, task: int, start_state: int, limit: int, video: Path | None
) -> EpisodeResult:
    began = time.monotonic()
    environment.start(start_state)
    expert = WidowXExpert(environment.env)
    success, frames = False, []
    for step in range(limit):
        if video:
            frames.append((step, np.asarray(environment.observe(depth=False).image)))
        success = environment.step(expert())
    if video:
        write_video(video, frames, 5)
    seconds = round(time.monotonic() - began, 3)
    return EpisodeResult(
        task, start_state, success, limit, seconds, video and video.name, environment.partial
    )


def main(options: Options) -> None:
    benchmark, (suite,) = SimplerBenchmark(), SUITES
    conventions, instructions = benchmark.conventions(suite), benchmark.instructions(suite)
    results = Results(
        suite=suite,
        policy="expert",
        checkpoint=None,
        depth="simulator",
        episodes_per_task=options.first + options.episodes,
        tasks={task: instructions[task] for task in options.tasks},
        conventions=conventions,
        versions=installed_versions(SimplerBenchmark.packages),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    for task in options.tasks:
        environment = benchmark.open(suite, task, conventions)
        for start_state in range(options.first, options.first + options.episodes):
            video = options.out / f"task{task:02d}_state{start_state:02d}.mp4" if options.videos else None
            episode = play(environment, task, start_state, conventions.limit(task), video)
            results = results.with_episodes([episode], episode.seconds)
            print(
                task,
                start_state,
                "success" if episode.success else "failure",
                f"{episode.seconds:.1f} s",
                flush=True,
            )
        environment.close()
    results.save(options.out / "results.json")
    print(markdown_table(success_table(results)))


if __name__ == "__main__":
    main(tyro.cli(Options))

"""The spatial exam: the scripted expert as its ceiling, tables of what policies scored, and a picture of its pairs.

MUJOCO_GL=egl python benchmarks/spatial_exam.py expert --episodes 10 --out runs/exam-expert
python benchmarks/spatial_exam.py table runs/exam-expert runs/exam-nano
MUJOCO_GL=egl python benchmarks/spatial_exam.py pictures --out docs/images
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tyro

from spatialvla.evaluation.benchmarks.spatial_exam import SUITE, SpatialExamBenchmark, SpatialExamTask
from spatialvla.evaluation.report.markdown import markdown_table
from spatialvla.evaluation.report.tables import success_table
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.evaluation.results.provenance import installed_versions
from spatialvla.simulation.libero.expert import LiberoExpert


@dataclass(frozen=True)
class Expert:
    """Let the scripted expert, which reads the simulator's state, take the exam."""

    suite: str = SUITE
    episodes: int = 10
    tasks: tuple[int, ...] = ()
    """All unless given."""
    out: Path = Path("runs/spatial_exam-expert")

    def run(self) -> None:
        benchmark = SpatialExamBenchmark()
        instructions, conventions = benchmark.instructions(self.suite), benchmark.conventions(self.suite)
        tasks = self.tasks or tuple(range(len(instructions)))
        results = Results(
            suite=self.suite,
            policy="scripted expert",
            checkpoint=None,
            depth="simulator",
            episodes_per_task=self.episodes,
            tasks={task: instructions[task] for task in tasks},
            conventions=conventions,
            versions=installed_versions(benchmark.packages),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        for task in tasks:
            environment = benchmark.open(self.suite, task, conventions)
            for start_state in range(self.episodes):
                episode = _play(environment, task, start_state, conventions.limit(task))
                results = results.with_episodes([episode], episode.seconds)
            environment.close()
            print(task, results.tally(task), instructions[task], flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        results.save(self.out / "results.json")
        print(markdown_table(success_table(results)))


def _play(environment: SpatialExamTask, task: int, start_state: int, limit: int) -> EpisodeResult:
    began = time.monotonic()
    environment.start(start_state)
    expert = LiberoExpert(environment.env)
    step, success = 0, False
    while step < limit and not success and not environment.ended:
        success = environment.step(expert())
        step += 1
    seconds = round(time.monotonic() - began, 3)
    return EpisodeResult(task, start_state, success, step, seconds, chose=environment.chose)


def main(command: Expert) -> None:
    command.run()


if __name__ == "__main__":
    main(tyro.cli(Expert))

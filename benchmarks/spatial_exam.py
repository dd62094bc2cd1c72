"""The spatial exam: the scripted expert as its ceiling, policies' scores side by side, and a picture of its pairs.

MUJOCO_GL=egl python benchmarks/spatial_exam.py expert --out runs/exam-expert
python benchmarks/spatial_exam.py scores runs/exam-expert/results.json runs/exam-nano/results.json
MUJOCO_GL=egl python benchmarks/spatial_exam.py pictures --out docs/images
"""

from __future__ import annotations

import textwrap
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from spatialvla.evaluation.benchmarks.spatial_exam import SpatialExamBenchmark, SpatialExamTask
from spatialvla.evaluation.report.exam_table import exam_table
from spatialvla.evaluation.report.markdown import markdown_table
from spatialvla.evaluation.report.tables import Cell, Column, Row, Table
from spatialvla.evaluation.results.comparison import labels
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.exam_scores import exam_scores
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.evaluation.results.provenance import installed_versions
from spatialvla.geometry.extrinsics import project
from spatialvla.simulation.libero.exam.layouts import MEANT
from spatialvla.simulation.libero.exam.questions import QUESTIONS, SKILLS, SUITE
from spatialvla.simulation.libero.expert import LiberoExpert

SIZE, CAPTION, GAP, COLUMNS = 224, 36, 12, 2


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
                episode = _played(environment, task, start_state, conventions.limit(task))
                results = results.with_episodes([episode], episode.seconds)
            environment.close()
            print(f"{results.tally(task)}: {instructions[task]}", flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        results.save(self.out / "results.json")
        print(markdown_table(exam_table(results)))


def _played(environment: SpatialExamTask, task: int, start_state: int, limit: int) -> EpisodeResult:
    began = time.monotonic()
    environment.start(start_state)
    expert = LiberoExpert(environment.env)
    step, success = 0, False
    while step < limit and not success and not environment.ended:
        success = environment.step(expert())
        step += 1
    seconds = round(time.monotonic() - began, 3)
    return EpisodeResult(task, start_state, success, step, seconds, chose=environment.chose)


@dataclass(frozen=True)
class Scores:
    """Print the skills' scores of several evaluations side by side."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Their results.json."""

    def run(self) -> None:
        evaluations = [Results.load(file) for file in self.files]
        by_skill: dict[str, list[tuple[Cell, ...]]] = {skill: [] for skill in SKILLS}
        for results in evaluations:
            totals = {score.skill: score.total for score in exam_scores(results)}
            for skill, cells in by_skill.items():
                score = totals.get(skill)
                cells.append((score.success, score.both) if score else (None, None))
        columns = [f"{name}: {part}" for name in labels(evaluations) for part in ("success", "both halves")]
        rows = [
            Row(skill, tuple(cell for pair in cells for cell in pair)) for skill, cells in by_skill.items()
        ]
        print(markdown_table(Table("", "Skill", tuple(map(Column, columns)), tuple(rows))))


@dataclass(frozen=True)
class Pictures:
    """Draw both halves of each pair side by side, the bowl that is meant in a circle."""

    out: Path = Path("docs/images")
    episode: int = 0

    def run(self) -> None:
        seen = {}
        benchmark = SpatialExamBenchmark(SIZE)
        conventions = benchmark.conventions(SUITE)
        for number, question in enumerate(QUESTIONS):
            environment = benchmark.open(SUITE, number, conventions)
            environment.start(self.episode)
            seen[question] = _captioned(environment, question.said or question.where, question.note)
            environment.close()
        pairs = list(dict.fromkeys(pair for pairs in SKILLS.values() for pair in pairs))
        width, height = 2 * SIZE + GAP, SIZE + CAPTION + GAP
        rows = -(-len(pairs) // COLUMNS)
        sheet = Image.new("RGB", (COLUMNS * (width + GAP) - GAP, rows * height), "white")
        for place, pair in enumerate(pairs):
            left, top = place % COLUMNS * (width + GAP), place // COLUMNS * height
            sheet.paste(seen[pair.first], (left, top))
            sheet.paste(seen[pair.second], (left + SIZE + 2, top))
        self.out.mkdir(parents=True, exist_ok=True)
        sheet.save(self.out / "spatial_exam.webp", quality=80, method=6)


def _captioned(environment: SpatialExamTask, said: str, note: str) -> Image.Image:
    """What the camera sees, the meant bowl in a circle, and below it the words that matter."""
    env, tile = environment.env, Image.new("RGB", (SIZE, SIZE + CAPTION), "white")
    tile.paste(Image.fromarray(np.asarray(environment.observe(depth=False).image)), (0, 0))
    bowl = env.data.xpos[env.simulator.obj_body_id[MEANT]] + [0, 0, 0.03]
    ((x, y),), _ = project(bowl[None], env.intrinsics, env.camera_pose)
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(12)
    draw.ellipse((x - 24, y - 24, x + 24, y + 24), outline="#18c964", width=3)
    for line, text in enumerate((textwrap.shorten(f"“{said}”", 40, placeholder=" …”"), note)):
        draw.text((2, SIZE + 1 + 16 * line), text, "black", font)
    return tile


def main(command: Expert | Scores | Pictures) -> None:
    command.run()


if __name__ == "__main__":
    main(tyro.cli(Expert | Scores | Pictures))  # type: ignore[arg-type]

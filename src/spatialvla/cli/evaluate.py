"""`spatialvla evaluate`: a policy's success rate on a LIBERO suite."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spatialvla.cli.loading import FlatPolicyOptions

_MAX_WORKERS = 8


@dataclass(frozen=True)
class Evaluate:
    """Play a LIBERO suite by the benchmark's rules; write success table, videos and report."""

    options: FlatPolicyOptions

    suite: str = "libero_spatial"
    """Any suite of the installed LIBERO."""

    episodes_per_task: int = 10
    """Episode i starts from the benchmark's stored start state i; there are 50 a task."""

    tasks: tuple[int, ...] = ()
    """Task numbers to play, counted from 0; all unless given."""

    depth: Literal["estimate", "simulator"] = "estimate"
    """Let the model estimate depth, or give it the simulator's."""

    execution: Literal["chunk", "receding", "ensemble"] = "chunk"
    """All of a chunk, its first --steps actions, or one action averaged over recent chunks."""

    steps: int = 1
    """Actions to execute of each chunk with --execution receding."""

    workers: int = field(default_factory=lambda: min(os.cpu_count() or 1, _MAX_WORKERS))
    """Processes that play episodes; the model stays in this one."""

    out: Path | None = None
    """Folder for results.json, videos/ and report.html; runs/<suite>-<policy>-<depth> unless given."""

    videos: bool = True
    """Write an MP4 of each episode."""

    decisions: int = 2
    """Decisions of a task's first episode whose depth, points and tokens the report shows."""

    def run(self) -> None:
        import torch
        from rich.console import Console

        from spatialvla.evaluation.libero import LiberoBenchmark
        from spatialvla.evaluation.moments import MomentKeeper
        from spatialvla.evaluation.report import write_report
        from spatialvla.evaluation.results import hash_checkpoint
        from spatialvla.evaluation.runner import EvaluationError, evaluate
        from spatialvla.model.checkpoint import resolve_folder
        from spatialvla.policy import Execution

        name = Path(self.options.policy).name
        out = self.out or Path("runs") / f"{self.suite}-{name}-{self.depth}"
        keeper = MomentKeeper(self.decisions, max_tasks=5)
        # Threads of one operator wait for each other by spinning: more than there are idle cores slow all down.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - self.workers))
        policy = self.options.load(Execution(self.execution, self.steps))
        try:
            results = evaluate(
                policy,
                self.suite,
                self.episodes_per_task,
                benchmark=LiberoBenchmark(128 if policy.processor.image_size <= 128 else 256),
                out=out,
                workers=self.workers,
                depth=self.depth,
                tasks=self.tasks or None,
                name=name,
                checkpoint=hash_checkpoint(resolve_folder(self.options.policy)),
                videos=self.videos,
                keeper=keeper,
            )
        except EvaluationError as error:
            raise SystemExit(f"spatialvla: {error}") from None
        console = Console()
        if console.is_terminal:
            console.print(results.to_table())
        else:
            print(results.to_markdown())
        report = write_report(results, keeper.kept, policy, out)
        console.print(f"\nWrote {report} and {out / 'results.json'}", highlight=False, soft_wrap=True)

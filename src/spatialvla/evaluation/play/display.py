"""What a person sees of a running evaluation: the success rate so far, and what each worker does."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from spatialvla.common.terminal import shown
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.outcomes import EpisodeResult, Tally


class EvaluationProgress:
    """Live bars on a terminal; one line an episode elsewhere.

    before: the evaluation as it is taken up. time_limit: of its longest task, steps.
    """

    def __init__(self, console: Console, before: Results, workers: int, time_limit: int) -> None:
        self._console = console
        self._episodes = len(before.planned)
        self._outcomes = [episode.success for episode in before.episodes]
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._total = self._bars.add_task(
            "[bold]episodes", total=self._episodes, completed=len(self._outcomes), note=""
        )
        self._workers = [
            self._bars.add_task(f"worker {number}", total=time_limit, note="starting")
            for number in range(1, workers + 1)
        ]

    def __enter__(self) -> EvaluationProgress:
        self._bars.start()
        if self._outcomes:
            self._console.print(
                f"{len(self._outcomes)} of {self._episodes} episodes were played before; going on from there",
                highlight=False,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def worker(self, number: int, note: str, step: int = 0) -> None:
        """Says what a worker is doing."""
        self._bars.update(self._workers[number], completed=step, note=f"[dim]{note}")

    def finished(self, result: EpisodeResult, instruction: str) -> None:
        """Counts an episode."""
        self._outcomes.append(result.success)
        tally = Tally.of(self._outcomes)
        self._bars.update(
            self._total, completed=tally.trials, note=f"[bold]{tally.rate:.0%}[/] successful so far"
        )
        if not self._console.is_terminal:
            outcome = "success" if result.success else "failure"
            self._console.print(
                f"{tally.trials}/{self._episodes} {outcome} after {result.steps} steps "
                f"({tally.rate:.0%} so far): {shown(instruction)}",
                highlight=False,
                soft_wrap=True,
            )

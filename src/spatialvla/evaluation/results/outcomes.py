"""What an evaluation found: success by task with confidence intervals, as JSON, text and a rich table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialvla.common.files import replacing
from spatialvla.common.json_files import read_json
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import Conventions, DepthOrigin
from spatialvla.evaluation.results.intervals import wilson_interval
from spatialvla.evaluation.results.plan import EpisodeId, Shard, plan_episodes
from spatialvla.evaluation.results.settings import PolicySettings

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "spatialvla.evaluation/2"
_OLD_SCHEMA = "spatialvla.evaluation/1"
_NOT_IN_OLD_SCHEMA = {"settings": None, "shard": None, "harness": "spatialvla"}


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    steps: after settling. seconds: wall time. video: path relative to the JSON file.
    partial: came part of the way at least (`Conventions.partial`); None where the benchmark does not say.
    """

    task: int
    start_state: int
    success: bool
    steps: int
    seconds: float
    video: str | None = None
    partial: bool | None = None

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
    def of(cls, episodes: Iterable[EpisodeResult]) -> Tally:
        outcomes = [episode.success for episode in episodes]
        return cls(sum(outcomes), len(outcomes))

    @property
    def rate(self) -> float:
        """Success rate in [0, 1]; 0 without trials."""
        return self.successes / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the rate."""
        return wilson_interval(self.successes, self.trials)


@dataclass(frozen=True)
class Results:
    """An evaluation, complete or under way.

    tasks: task number -> instruction, for every task asked for, in order.
    checkpoint: `hash_checkpoint` of its folder; None when the policy has no files.
    depth: "estimate" (the model's own) or "simulator" (true depth in its place).
    settings: how the policy was used; None where the file does not say.
    shard: which part of the evaluation this is; None for all of it.
    harness: what played the episodes.
    """

    suite: str
    policy: str
    checkpoint: str | None
    depth: DepthOrigin
    episodes_per_task: int
    tasks: dict[int, str]
    conventions: Conventions
    versions: dict[str, str]
    started: str
    seconds: float = 0.0
    episodes: tuple[EpisodeResult, ...] = ()
    settings: PolicySettings | None = None
    shard: Shard | None = None
    harness: str = "spatialvla"

    @property
    def planned(self) -> list[EpisodeId]:
        """Every episode asked for."""
        return plan_episodes(self.tasks, self.episodes_per_task, self.shard)

    @property
    def planned_tasks(self) -> dict[int, str]:
        """The tasks that any of these episodes is of: all, or a shard's."""
        numbers = {episode.task for episode in self.planned}
        return {task: text for task, text in self.tasks.items() if task in numbers}

    @property
    def missing(self) -> list[EpisodeId]:
        """The episodes that are still to be played."""
        played = {episode.id for episode in self.episodes}
        return [episode for episode in self.planned if episode not in played]

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def total(self) -> Tally:
        return Tally.of(self.episodes)

    def tally(self, task: int) -> Tally:
        return Tally.of(episode for episode in self.episodes if episode.task == task)

    def with_episodes(self, episodes: Iterable[EpisodeResult], seconds: float = 0.0) -> Results:
        """The same evaluation with more episodes, in order, and more time spent."""
        ordered = sorted((*self.episodes, *episodes), key=lambda episode: episode.id)
        return replace(self, episodes=tuple(ordered), seconds=round(self.seconds + seconds, 3))

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary: the fields, and per task and in all the derived rates and intervals."""
        return {
            "schema": SCHEMA,
            "complete": self.complete,
            "total": _summary(self.total),
            **asdict(self),
            "shard": str(self.shard) if self.shard else None,
            "tasks": [
                {"task": task, "instruction": text, **_summary(self.tally(task))}
                for task, text in self.tasks.items()
            ],
            "episodes": [asdict(episode) for episode in self.episodes],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Results:
        """The inverse of `to_json`, for this schema and the one before; derived numbers are computed anew."""
        if document.get("schema") not in (SCHEMA, _OLD_SCHEMA):
            raise InputError(
                f"not an evaluation result of schema {SCHEMA!r}: it says {document.get('schema')!r}"
            )
        try:
            old = _NOT_IN_OLD_SCHEMA if document["schema"] == _OLD_SCHEMA else {}
            values = {field.name: {**old, **document}[field.name] for field in fields(cls)}
            values["tasks"] = {entry["task"]: entry["instruction"] for entry in document["tasks"]}
            values["episodes"] = tuple(EpisodeResult(**entry) for entry in document["episodes"])
            values["conventions"] = Conventions.from_json(document["conventions"])
            if values["settings"] is not None:
                values["settings"] = PolicySettings.from_json(values["settings"])
            if values["shard"] is not None:
                values["shard"] = Shard.parse(values["shard"])
        except (KeyError, TypeError) as error:
            raise InputError(f"damaged evaluation result: {error}") from error
        return cls(**values)

    def save(self, path: Path) -> None:
        """Writes JSON so that a reader sees either the old file or the whole new one."""
        with replacing(path) as partial:
            partial.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Reads what `save` wrote. Raises InputError that names the file where it cannot be used."""
        return cls.from_json(read_json(path, error=InputError))

    def to_markdown(self) -> str:
        """The success table as plain text that is also Markdown."""
        columns = self._columns()
        lines = [f"| task | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
        lines += [f"| {' | '.join(row)} |" for row in self._rows()]
        return "\n".join(lines)

    def to_table(self) -> Table:
        """The success table for a terminal."""
        from rich.table import Table

        table = Table(title=f"{self.suite} · {self.policy} · depth: {self.depth}", title_justify="left")
        table.add_column("task", overflow="fold")
        for name in self._columns():
            table.add_column(name, justify="right", no_wrap=True)
        *rows, last = self._rows()
        for row in rows:
            table.add_row(*row)
        table.add_section()
        table.add_row(*last, style="bold")
        return table

    def mean_steps(self, task: int | None = None) -> str:
        """Mean length of the successes, in steps; a failure's length is only the time limit."""
        steps = [e.steps for e in self.episodes if e.success and task in (None, e.task)]
        return f"{sum(steps) / len(steps):.0f}" if steps else "–"

    def partial(self, task: int | None = None) -> str:
        """How many episodes came part of the way at least, among those that say."""
        known = [e.partial for e in self.episodes if e.partial is not None and task in (None, e.task)]
        return f"{sum(known)}/{len(known)}" if known else "–"

    def _columns(self) -> tuple[str, ...]:
        columns = ("successes", "rate", "95 % interval", "steps")
        return (*columns, "partial") if self.conventions.partial else columns

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [self._row(text, self.tally(task), task) for task, text in self.planned_tasks.items()]
        return [*rows, self._row("all", self.total)]

    def _row(self, name: str, tally: Tally, task: int | None = None) -> tuple[str, ...]:
        row = (name, *_cells(tally), self.mean_steps(task))
        return (*row, self.partial(task)) if self.conventions.partial else row


def _summary(tally: Tally) -> dict[str, Any]:
    return {**asdict(tally), "rate": tally.rate, "interval95": list(tally.interval)}


def _cells(tally: Tally) -> tuple[str, str, str]:
    if not tally.trials:
        return "0/0", "–", "–"
    low, high = tally.interval
    return f"{tally.successes}/{tally.trials}", f"{tally.rate:.0%}", f"{low:.0%} – {high:.0%}"

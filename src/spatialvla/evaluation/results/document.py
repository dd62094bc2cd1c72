"""An evaluation as a document, results.json: what was asked for, by which rules, and what came out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from spatialvla.common.files import replacing
from spatialvla.common.json_files import read_json
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import DEPTH_ORIGINS, Conventions, DepthOrigin
from spatialvla.evaluation.results.outcomes import EpisodeResult, Tally
from spatialvla.evaluation.results.plan import EpisodeId, Shard, plan_episodes
from spatialvla.evaluation.results.policy_settings import PolicySettings

SCHEMA = "spatialvla.evaluation/2"
_OLD_SCHEMA = "spatialvla.evaluation/1"
_NOT_IN_OLD_SCHEMA = {"settings": None, "shard": None, "harness": "spatialvla"}


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
        """Whether every episode asked for has been played."""
        return not self.missing

    @property
    def total(self) -> Tally:
        """Successes of all episodes."""
        return self.tally()

    def tally(self, task: int | None = None) -> Tally:
        """Successes of one task's episodes, or of all."""
        return Tally.of(episode.success for episode in self._of(task))

    def partial(self, task: int | None = None) -> Tally:
        """How many of one task's episodes, or of all, came part of the way at least, among those that say."""
        return Tally.of(episode.partial for episode in self._of(task) if episode.partial is not None)

    def mean_steps(self, task: int | None = None) -> float | None:
        """Mean length of the successes in steps; None without any. A failure only lasts to the limit."""
        steps = [episode.steps for episode in self._of(task) if episode.success]
        return sum(steps) / len(steps) if steps else None

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
                f"Not an evaluation result of schema {SCHEMA!r}: it says {document.get('schema')!r}."
            )
        try:
            old = _NOT_IN_OLD_SCHEMA if document["schema"] == _OLD_SCHEMA else {}
            values = {field.name: {**old, **document}[field.name] for field in fields(cls)}
            values["tasks"] = {entry["task"]: entry["instruction"] for entry in document["tasks"]}
            values["episodes"] = tuple(EpisodeResult(**entry) for entry in document["episodes"])
            values["conventions"] = Conventions.from_json(document["conventions"])
            if values["depth"] not in DEPTH_ORIGINS:
                raise InputError(f"Damaged evaluation result: depth is {values['depth']!r}.")
            if values["settings"] is not None:
                values["settings"] = PolicySettings.from_json(values["settings"])
            if values["shard"] is not None:
                values["shard"] = Shard.parse(values["shard"])
        except (KeyError, TypeError) as error:
            raise InputError(f"Damaged evaluation result: {error}.") from error
        return cls(**values)

    def save(self, path: Path) -> None:
        """Writes JSON so that a reader sees either the old file or the whole new one."""
        with replacing(path) as partial:
            partial.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Reads what `save` wrote. Raises InputError that names the file where it cannot be used."""
        document = read_json(path, error=InputError)
        try:
            return cls.from_json(document)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def _of(self, task: int | None) -> list[EpisodeResult]:
        return [episode for episode in self.episodes if task in (None, episode.task)]


def _summary(tally: Tally) -> dict[str, Any]:
    return {**asdict(tally), "rate": tally.rate, "interval95": list(tally.interval)}

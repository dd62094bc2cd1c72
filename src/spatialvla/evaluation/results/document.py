"""An evaluation as a document, results.json: what was asked for, by which rules, and what came out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spatialvla.common.json_files import read_json, write_json
from spatialvla.common.schema import parse
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import Conventions, DepthOrigin
from spatialvla.evaluation.results.outcomes import EpisodeResult, Tally
from spatialvla.evaluation.results.plan import EpisodeId, Shard, plan_episodes
from spatialvla.evaluation.results.policy_settings import PolicySettings

SCHEMA = "spatialvla.evaluation/2"
_OLD_SCHEMA = "spatialvla.evaluation/1"
_MOST_EPISODES = 1_000_000
_HOW_IT_WAS_ASKED = ("policy_path", "command")
_DERIVED = ("schema", "complete", "total")
_NOT_IN_OLD_SCHEMA = {"settings": None, "shard": None, "harness": "spatialvla"}


@dataclass(frozen=True)
class _Task:
    """An entry of the document's tasks."""

    task: int
    instruction: str


@dataclass(frozen=True)
class Results:
    """An evaluation, complete or under way.

    tasks: task number -> instruction, for every task asked for, in order.
    checkpoint: `hash_checkpoint` of its folder; None when the policy has no files.
    depth: "estimate" (the model's own) or "simulator" (true depth in its place).
    settings: how the policy was used; None where the file does not say.
    shard: which part of the evaluation this is; None for all of it.
    harness: what played the episodes.
    policy_path: the checkpoint's folder or name, as it was asked for. command: as it was typed. Both are empty
    where the file does not say, and nothing is compared by them.
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
    policy_path: str = ""
    command: str = ""

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
    def first_start_states(self) -> dict[int, int]:
        """Task number -> start state of its first episode that was asked for."""
        return {episode.task: episode.start_state for episode in sorted(self.planned, reverse=True)}

    @property
    def inputs(self) -> str:
        """What the policy was given, in words: which cameras, and whether the arm's state."""
        return f"{self.conventions.camera}, {'the' if self.conventions.state else 'no'} state"

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

    def shareable(self) -> Results:
        """A copy to hand on: without the names of this machine's folders, and so without command and videos."""
        episodes = tuple(replace(episode, video=None) for episode in self.episodes)
        return replace(self, policy_path="", command="", episodes=episodes)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary: the fields, and per task and in all the derived rates and intervals.

        How it was asked for is left out where that is not known.
        """
        document = {
            "schema": SCHEMA,
            "complete": self.complete,
            "total": _summary(self.total),
            **asdict(replace(self, episodes=())),
            "shard": str(self.shard) if self.shard else None,
            "tasks": [
                {"task": task, "instruction": text, **_summary(self.tally(task))}
                for task, text in self.tasks.items()
            ],
            "episodes": [_entry(episode) for episode in self.episodes],
        }
        if not self.conventions.state:  # as files of policies without one always were
            del document["conventions"]["state"]
        if self.settings is not None and self.settings.latency is None:  # likewise of worlds that waited
            del document["settings"]["latency"]
        if self.settings is not None and self.settings.readout == "likeliest":  # as all once did
            del document["settings"]["readout"]
        return {name: value for name, value in document.items() if value or name not in _HOW_IT_WAS_ASKED}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Results:
        """The inverse of `to_json`, for this schema and the one before; derived numbers are computed anew."""
        if document.get("schema") not in (SCHEMA, _OLD_SCHEMA):
            raise InputError(
                f"Not an evaluation result of schema {SCHEMA!r}: it says {document.get('schema')!r}."
            )
        old = _NOT_IN_OLD_SCHEMA if document["schema"] == _OLD_SCHEMA else {}
        try:
            values = {**old, **{key: value for key, value in document.items() if key not in _DERIVED}}
            tasks = parse(list[_Task], _without_rates(values.pop("tasks", None)), "tasks")
            shard = values.pop("shard", None)
            if not isinstance(shard, str | None):
                raise ValueError(f"shard is a text such as 2/4, not {shard!r}")
            found = parse(cls, {**values, "tasks": {}})
            results = replace(
                found,
                tasks={entry.task: entry.instruction for entry in tasks},
                shard=None if shard is None else Shard.parse(shard),
            )
            if not 0 < results.episodes_per_task * len(tasks) <= _MOST_EPISODES:
                raise ValueError(f"it asks for {results.episodes_per_task} episodes of {len(tasks)} tasks")
            if results.seconds < 0:
                raise ValueError(f"it took {results.seconds:g} seconds")
            if len(results.tasks) != len(tasks):
                raise ValueError("a task is listed twice")
            results.check_episodes()
        except ValueError as error:
            raise InputError(f"Damaged evaluation result: {str(error).rstrip('.')}.") from None
        return results

    def check_episodes(self) -> None:
        """Raises InputError for an episode that is there twice, or that nobody asked for."""
        planned, seen = set(self.planned), set[EpisodeId]()
        for episode in self.episodes:
            where = f"Task {episode.task} from start state {episode.start_state}"
            if episode.id in seen:
                raise InputError(f"{where} is there twice; an episode counts once.")
            if episode.id not in planned:
                raise InputError(f"{where} is none of the {len(planned)} episodes that were asked for.")
            seen.add(episode.id)

    def save(self, path: Path) -> None:
        """Writes JSON so that a reader sees either the old file or the whole new one."""
        write_json(path, self.to_json(), indent=1, checksum=True)

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


def _without_rates(tasks: object) -> object:
    """The document's tasks without what is derived from their episodes."""
    if not isinstance(tasks, list) or not all(isinstance(entry, dict) for entry in tasks):
        return tasks
    return [
        {
            key: value
            for key, value in entry.items()
            if key not in ("successes", "trials", "rate", "interval95")
        }
        for entry in tasks
    ]


def _entry(episode: EpisodeResult) -> dict[str, Any]:
    entry = asdict(episode)
    for name in (
        "uncertainty",
        "chose",
    ):  # absent where nothing was asked, as in files from before there were these
        if entry[name] is None:
            del entry[name]
    return entry


def _summary(tally: Tally) -> dict[str, Any]:
    return {**asdict(tally), "rate": tally.rate, "interval95": list(tally.interval)}

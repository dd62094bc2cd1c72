"""Results files put together: shards into wholes, folders into their files, other harnesses' into ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from spatialvla.common.json_files import read_json
from spatialvla.errors import InputError
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.identity import differences
from spatialvla.evaluation.results.plan import EpisodeId
from spatialvla.evaluation.results.vla_eval import is_vla_eval, read_vla_eval


def load_results(paths: Iterable[Path]) -> list[Results]:
    """Every evaluation in these files and folders, those in several files put together.

    A folder stands for its results*.json. Files of vla-eval are read, too; those of the same evaluation, such
    as one a task, become one. Where a file is what its parts were merged into, whichever of the two has all
    episodes stands for both. Raises InputError for files that cannot be used, and for the same shard given twice.
    """
    groups: list[list[Results]] = []
    for results in (_load(path) for given in paths for path in _files(given)):
        home = next((group for group in groups if _belongs(results, group)), None)
        if home is None:
            groups.append([results])
        else:
            home.append(results)
    found = [(merge(group), True) if _in_parts(group) else (group[0], False) for group in groups]
    return [
        results
        for results, in_parts in found
        if not any(
            _holds(other, results, more=not in_parts)
            for other, other_in_parts in found
            if other_in_parts != in_parts
        )
    ]


def merge(parts: Sequence[Results]) -> Results:
    """The evaluation that these are parts of; it is complete if all of them are there and complete.

    Raises InputError where they are of different evaluations, or have an episode in common.
    """
    first = parts[0]
    whole = replace(first, shard=None, started=min(part.started for part in parts))
    for part in parts[1:]:
        if different := _unlike(first, part):
            raise InputError(f"These are parts of different evaluations: {'; '.join(different)}.")
        if both := _played(whole) & _played(part):
            task, state = min(both)
            raise InputError(
                f"Two files both have task {task} from start state {state} of {first.suite}; "
                "give each shard once."
            )
        tasks = dict(sorted({**whole.tasks, **part.tasks}.items()))
        whole = replace(whole, tasks=tasks).with_episodes(part.episodes, part.seconds)
    return whole


def _in_parts(group: Sequence[Results]) -> bool:
    return len(group) > 1 or group[0].shard is not None


def _holds(one: Results, other: Results, more: bool) -> bool:
    """Whether one holds every episode that the other does, as it was played once; more: and further ones."""
    if differences(one, other):
        return False
    ours, theirs = ({replace(e, video=None) for e in each.episodes} for each in (one, other))
    return ours > theirs if more else ours >= theirs


def _belongs(results: Results, group: Sequence[Results]) -> bool:
    """Whether results are a further part of the evaluation that a group has parts of."""
    first = group[0]
    if _unlike(first, results):
        return False
    if results.shard is not None:
        return first.shard is not None and first.shard.count == results.shard.count
    elsewhere = results.harness != "spatialvla"
    return elsewhere and not any(_played(part) & _played(results) for part in group)


def _unlike(one: Results, other: Results) -> list[str]:
    """What keeps two results from being parts of one evaluation."""
    found = differences(one, other)
    if one.episodes_per_task != other.episodes_per_task:
        found.append(f"episodes a task: {one.episodes_per_task}, {other.episodes_per_task}")
    return found


def _played(results: Results) -> set[EpisodeId]:
    return {episode.id for episode in results.episodes}


def _files(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    found = sorted(given.glob("results*.json"))
    if not found:
        raise InputError(f"{given} has no results*.json; give an evaluation's folder or file.")
    return found


def _load(path: Path) -> Results:
    document = read_json(path, error=InputError)
    try:
        return read_vla_eval(document) if is_vla_eval(document) else Results.from_json(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None

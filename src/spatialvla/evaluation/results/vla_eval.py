"""Results of vla-eval, AllenAI's evaluation harness, as ours: all that its files say."""

from __future__ import annotations

from typing import Any

from spatialvla.common.schema import parse
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import Conventions
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.outcomes import EpisodeResult


def is_vla_eval(document: dict[str, Any]) -> bool:
    """Whether a JSON object is one of its `…_aggregate.json`."""
    return "harness_version" in document and "tasks" in document


def read_vla_eval(document: dict[str, Any]) -> Results:
    """One benchmark's aggregate, of vla-eval 0.8.

    What the file does not tell (checkpoint, settings, most conventions) stays empty. Raises InputError where
    it lacks suite, task numbers or start states, and where an episode broke, which is no failure of the
    policy's.
    """
    try:
        config = document["config"]
        entries = [entry for task in document["tasks"] for entry in task["episodes"]]
        suites = {entry["suite"] for entry in entries}
        tasks = {entry["task_id"]: entry["name"] for entry in entries}
        episodes = tuple(_episode(entry) for entry in entries)
        if len(suites) != 1:
            raise InputError(f"It is of {len(suites)} suites; results are of one.")
        results = Results(
            suite=suites.pop(),
            policy=document["server_info"]["model_server"],
            checkpoint=None,
            depth="estimate",
            episodes_per_task=config["episodes_per_task"],
            tasks=dict(sorted(tasks.items())),
            conventions=_conventions(config, document.get("seed")),
            versions={"vla-eval": document["harness_version"]},
            started=document["created_at"],
            seconds=round(sum(episode.seconds for episode in episodes), 3),
            harness=f"vla-eval {document['harness_version']}",
        ).with_episodes(episodes)
        results.check_episodes()
        return results
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"Not a result of vla-eval that tells tasks and start states: {error!r}.") from error


def _episode(entry: dict[str, Any]) -> EpisodeResult:
    if reason := entry.get("failure_reason"):
        raise InputError(
            f"Task {entry['task_id']}, episode {entry['episode_idx']} broke ({reason}); "
            "let the harness play it again."
        )
    return parse(
        EpisodeResult,
        {
            "task": entry["task_id"],
            "start_state": entry["episode_idx"],
            "success": _outcome(entry["metrics"]["success"]),
            "steps": entry["steps"],
            "seconds": entry["elapsed_sec"],
        },
        "the episode",
    )


def _outcome(success: object) -> bool:
    """The harness writes true and false, or 1 and 0."""
    if success not in (0, 1):
        raise ValueError(f"success is {success!r}")
    return bool(success)


def _conventions(config: dict[str, Any], seed: int | None) -> Conventions:
    return Conventions(
        time_limit=config.get("max_steps") or 0,
        camera="",
        image_size=0,
        image="",
        rendering="",
        action="",
        gripper="",
        control_hz=0,
        settle_steps=0,
        settle_action=(),
        start_states="the harness's episode number",
        success=f"as {config['benchmark']} decides",
        seeds="" if seed is None else f"seed {seed}",
    )

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import conventions
from hypothesis import given
from hypothesis import strategies as st
from some_results import shards, some_results

from spatialvla.errors import InputError
from spatialvla.evaluation.results.merging import load_results, merge
from spatialvla.evaluation.results.plan import Shard

WHOLE = some_results("+-+ --- ++-", seconds=3.0)


def save(folder: Path, *evaluations) -> list[Path]:
    paths = [folder / f"results-{number}.json" for number, _ in enumerate(evaluations)]
    for path, results in zip(paths, evaluations, strict=True):
        results.save(path)
    return paths


@given(st.integers(1, 12), st.randoms())
def test_shards_in_any_order_are_the_whole(count, dice):
    parts = shards(WHOLE, count)
    dice.shuffle(parts)
    merged = merge(parts)
    assert merged == replace(WHOLE, seconds=float(count))
    assert merged.complete


def test_a_folder_of_shards_is_one_evaluation(tmp_path):
    save(tmp_path, *shards(WHOLE, 3))
    (merged,) = load_results([tmp_path])
    assert merged == WHOLE
    assert merged.shard is None


def test_missing_shards_leave_an_incomplete_evaluation(tmp_path):
    first, _, third = shards(WHOLE, 3)
    (merged,) = load_results(save(tmp_path, first, third))
    assert not merged.complete
    assert {episode.task for episode in merged.missing} == {1}


def test_what_shards_were_merged_into_stands_for_them(tmp_path):
    """Also as the copy that is handed on, which names no videos, and where more was played on it."""
    first, second = shards(replace(WHOLE, seconds=2.0), 2)
    filmed = replace(first, episodes=tuple(replace(e, video="a.mp4") for e in first.episodes))
    save(tmp_path, filmed, second)
    whole = tmp_path / "results.json"
    for _ in range(2):
        (merged,) = load_results([tmp_path])
        merged.save(whole)
    for kept in (merged.shareable(), replace(merged, episodes_per_task=5)):
        kept.save(whole)
        assert load_results([tmp_path]) == [kept]


def test_a_late_shard_is_added_to_what_was_merged_before(tmp_path):
    first, second, third = shards(WHOLE, 3)
    merge([first, second]).save(tmp_path / "results.json")
    save(tmp_path, first, second, third)
    (merged,) = load_results([tmp_path])
    assert merged.episodes == WHOLE.episodes


def test_the_same_shard_twice_is_an_error(tmp_path):
    first, second = shards(WHOLE, 2)
    with pytest.raises(InputError, match="both have task 0 from start state 0 of libero_spatial"):
        load_results(save(tmp_path, first, second, first))


def test_what_does_not_belong_together_stays_apart(tmp_path):
    """Whole evaluations, other checkpoints, other rules, other splits: none are mixed."""
    first, second = shards(WHOLE, 2)
    played_again = tuple(replace(episode, seconds=2.0) for episode in WHOLE.episodes)
    others = [
        replace(WHOLE, episodes=played_again),
        replace(second, checkpoint="other"),
        replace(second, conventions=conventions(time_limit=9)),
        replace(second, depth="simulator"),
        replace(second, shard=Shard(2, 3), episodes=shards(WHOLE, 3)[1].episodes),
    ]
    loaded = load_results(save(tmp_path, first, *others))
    assert len(loaded) == 6
    with pytest.raises(InputError, match="different evaluations: checkpoint"):
        merge([first, replace(second, checkpoint="other")])


def test_a_shard_without_the_arms_state_is_of_another_evaluation(tmp_path):
    """As `--without state` plays it, and as files say it that mention none."""
    told, untold = shards(WHOLE, 2)
    told = replace(told, conventions=replace(told.conventions, state="two fingers"))
    save(tmp_path, told, untold)
    assert len(load_results([tmp_path])) == 2
    with pytest.raises(InputError, match="conventions state: two fingers, none"):
        merge([told, untold])


def test_files_that_are_no_results_are_named(tmp_path):
    with pytest.raises(InputError, match=r"has no results\*\.json"):
        load_results([tmp_path])
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"schema": "spatialvla.evaluation/9"}))
    with pytest.raises(InputError, match=r"results\.json: Not an evaluation result"):
        load_results([path])


# ------------------------------------------------------------ vla-eval's files


def aggregate(task: int, name: str, outcomes: str, **changes: object) -> dict:
    """As vla-eval 0.8.0 exports it: one task of LIBERO-Spatial, a letter an episode."""
    episodes = [
        {
            "sid": "9ac3fe4a",
            "eid": "f08b5b4d",
            "episode_id": number,
            "metrics": {"success": letter == "+"},
            "steps": 62,
            "elapsed_sec": 48.155,
            "name": name,
            "suite": "libero_spatial",
            "task_id": task,
            "episode_idx": number,
            "task_idx": 0,
        }
        for number, letter in enumerate(outcomes)
    ]
    return {
        "benchmark": "LIBEROBenchmark",
        "mode": "sync",
        "harness_version": "0.8.0",
        "created_at": f"2026-11-24T21:47:0{task}.4+00:00",
        "tasks": [{"task": name, "episodes": episodes, "num_episodes": len(episodes)}],
        "config": {
            "benchmark": "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark",
            "episodes_per_task": len(outcomes),
            "max_steps": None,
        },
        "server_info": {"model_server": "nano"},
        "seed": 7,
    } | changes


def write(path: Path, document: dict) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_what_another_harness_found_is_read(tmp_path):
    bowls = write(tmp_path / "a.json", aggregate(2, "pick up the bowl", "+-"))
    drawer = write(tmp_path / "b.json", aggregate(0, "open the drawer", "++"))
    (results,) = load_results([bowls, drawer])
    assert (results.suite, results.policy, results.harness) == ("libero_spatial", "nano", "vla-eval 0.8.0")
    assert results.tasks == {0: "open the drawer", 2: "pick up the bowl"}
    assert [(e.task, e.start_state, e.success) for e in results.episodes] == [
        (0, 0, True),
        (0, 1, True),
        (2, 0, True),
        (2, 1, False),
    ]
    assert results.complete
    assert (results.checkpoint, results.settings) == (None, None)
    results.save(tmp_path / "ours.json")
    assert load_results([tmp_path / "ours.json"]) == [results]


def test_what_another_harness_does_not_tell_is_an_error(tmp_path):
    broken = aggregate(0, "open the drawer", "+")
    broken["tasks"][0]["episodes"][0]["failure_reason"] = "timeout"
    with pytest.raises(InputError, match=r"a\.json: Task 0, episode 0 broke \(timeout\)"):
        load_results([write(tmp_path / "a.json", broken)])
    bare = aggregate(0, "open the drawer", "+")
    del bare["tasks"][0]["episodes"][0]["task_id"]
    with pytest.raises(InputError, match="tells tasks and start states"):
        load_results([write(tmp_path / "b.json", bare)])

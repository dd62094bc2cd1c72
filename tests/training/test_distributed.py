"""Two processes compute what one does, and go on from each other's checkpoints."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import BATCH, Run, run
from tiny_policy import tiny

from spatialvla.errors import InputError
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.checkpoints.checkpointer import FOLDER, Checkpointer, load_weights
from spatialvla.training.metrics import combined
from spatialvla.training.parallel.world import World, join_world

HERE = Path(__file__).parent
EMBEDDINGS = "language_model.model.embed_tokens.weight"


def as_processes(count, jobs):
    """The runs, as that many processes."""
    ended = programs(count, "small_run.py", json.dumps([asdict(job) for job in jobs]))
    assert [code for code, _, _ in ended] == [0] * count, "\n".join(errors for _, _, errors in ended)


def programs(count, *arguments):
    """How Python ended with these arguments as that many processes: exit code, output and errors of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=HERE,
            env=os.environ
            | {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    told = [process.communicate(timeout=600) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, told, strict=True)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs of four steps by their processes: "1-2" began as one and went on as two."""
    root = tmp_path_factory.mktemp("runs")
    folders = {
        name: root / name
        for name in ("1", "2", "1 half", "2 half", "1-2", "2-1", "2-2", "2 bf16", "several", "several 2")
    }
    for folder in folders.values():
        folder.mkdir()

    def job(name, **options):
        return Run(str(folders[name]), **options)

    run(World(), job("1"))
    run(World(), job("1 half", steps=2))
    run(World(), job("several", several=True))
    as_processes(
        2,
        [
            job("2"),
            job("2 half", steps=2, recompute=True),
            job("1-2", resume=str(folders["1 half"])),
            job("2-2", resume=str(folders["2 half"])),
            job("2 bf16", bf16=True),
            job("several 2", several=True, recompute=True),
        ],
    )
    run(World(), job("2-1", resume=str(folders["2 half"])))
    return folders


def lines(folder):
    return json.loads((folder / "lines.json").read_text())


@pytest.mark.parametrize(
    ("one", "other"), [("1", "2"), ("1", "1-2"), ("1", "2-1"), ("1", "2-2"), ("several", "several 2")]
)
def test_any_number_of_processes_learns_the_same(runs, one, other):
    """Also of several cameras and a state that all rows of one process lack."""
    ours, theirs = lines(runs[one]), lines(runs[other])
    for mine, others in zip(ours[-len(theirs) :], theirs, strict=True):
        assert mine["step"] == others["step"]
        assert mine["tokens"] == others["tokens"]
        for name in ("loss", "norm", "held_out"):
            assert others[name] == pytest.approx(mine[name], rel=2e-6), name
    for average in (False, True):
        expected = load_weights(runs[one], average)
        found = load_weights(runs[other], average)
        assert set(found) == set(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=2e-5, msg=name)


def test_frozen_parts_stay_as_they_were_and_the_rest_moves(runs):
    torch.manual_seed(3)
    start = SpatialVLA(tiny()).state_dict()
    end = load_weights(runs["2"], average=False)
    assert set(start) == set(end)
    frozen = {name for name in start if name == EMBEDDINGS or name.startswith("vision_zoe_model.")}
    for name in frozen:
        assert torch.equal(start[name], end[name]), name
    moved = [name for name in start if name not in frozen and not torch.equal(start[name], end[name])]
    assert len(moved) > 0.9 * (len(start) - len(frozen))


def test_going_on_as_many_processes_is_exact_to_the_bit(runs):
    assert lines(runs["2"])[2:] == lines(runs["2-2"])
    for average in (False, True):
        straight, resumed = load_weights(runs["2"], average), load_weights(runs["2-2"], average)
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in straight.items())


def test_random_numbers_go_on_or_start_anew_by_rank(runs):
    assert lines(runs["2-2"])[0]["noise"] == lines(runs["2"])[2]["noise"]
    anew = lines(runs["1-2"])[0]["noise"]
    assert len({*anew, *lines(runs["1"])[2]["noise"]}) == 3


def test_where_a_run_stands_is_known_to_any_number_of_processes(runs):
    path = runs["2"] / FOLDER / "step_00000004"
    moment = Checkpointer(path.parent, 3).moment(path)
    assert moment.documents["grid"] == {"bins": [1, 2]}
    assert (moment.step, moment.seconds, moment.identity) == (4, 2.0, {"seed": 3})
    assert moment.skipped == 8


def test_bf16_computes_nearly_the_same_on_float32_weights(runs):
    for mine, others in zip(lines(runs["2"]), lines(runs["2 bf16"]), strict=True):
        assert mine["loss"] != others["loss"] == pytest.approx(mine["loss"], rel=0.01)
    weights = load_weights(runs["2 bf16"])
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}


def test_a_batch_is_shared_out_once_and_evenly():
    batch = np.arange(BATCH)
    parts = [World(rank, 4).part(batch) for rank in range(4)]
    assert np.array_equal(np.concatenate(parts), batch)
    with pytest.raises(InputError, match="8 cannot be split over 3"):
        World(0, 3).part(batch)


ALONE_FOR_LONG = """
import os, sys, time
from datetime import timedelta
from spatialvla.errors import InputError
from spatialvla.training.parallel import world as worlds
worlds.PATIENCE = timedelta(seconds=3)

def survey():
    time.sleep(7)
    if "fail" in sys.argv:
        raise InputError("There is no dataset.")
    if "die" in sys.argv:
        os._exit(9)
    return 5

with worlds.join_world("cpu") as world:
    try:
        results = world.on_main(survey), world.on_main_first(lambda: world.rank), world.sum([1])
        print(*results)
    except InputError as error:
        print(error)
"""


def test_the_others_wait_for_rank_0_as_long_as_it_lives():
    """Longer than for each other in a collective; and they hear of what went wrong there."""
    first, second = programs(2, "-c", ALONE_FOR_LONG)
    assert (first[:2], second[:2]) == ((0, "5 0 [2.0]\n"), (0, "5 1 [2.0]\n")), (first, second)
    for code, said, _ in programs(2, "-c", ALONE_FOR_LONG, "fail"):
        assert (code, said) == (0, "There is no dataset.\n")
    first, second = programs(2, "-c", ALONE_FOR_LONG, "die")
    assert first[0] == 9
    assert second[0] != 0


def test_alone_there_is_no_process_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with join_world("cpu") as world:
        assert world == World()
        assert not torch.distributed.is_initialized()
        assert combined([{"loss": (2.0, 1), "none": (0.0, 0)}, {"loss": (10.0, 3)}], world) == {"loss": 3.0}
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InputError, match="should be numbers"):
        World.from_environment("cpu")

"""Checkpoints of one process: whole or absent, named when damaged, and never unpickled."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spatialvla.common.json_files import read_json
from spatialvla.errors import CheckpointError
from spatialvla.training.checkpoints import checkpointer as checkpoints
from spatialvla.training.checkpoints import shards
from spatialvla.training.checkpoints.checkpointer import (
    FOLDER,
    Checkpointer,
    Moment,
    Trained,
    complete,
    load_weights,
)
from spatialvla.training.optimizer import WeightAverage


def trained(seed=0, steps=2, width=4):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
    model[2].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    average = WeightAverage(model, 0.5)
    for step in range(steps):
        model(torch.rand(5, 3)).square().sum().backward()
        optimizer.step()
        average.update(step)
    return Trained(model, optimizer, average)


def moment(step=1):
    return Moment(step, 1.5, {"seed": 1}, 7, {"config": {"steps": 3}, "grid": {"edges": [0.5, 1.0]}})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / FOLDER


def equal(one, other):
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def test_all_comes_back(folder):
    first, second = trained(), trained(seed=1, steps=0)
    checkpointer = Checkpointer(folder, keep=2)
    assert checkpointer.newest() is None
    path = checkpointer.save(first, moment())
    noise = torch.rand(3)
    assert checkpointer.newest() == path == folder / "step_00000001"
    assert checkpointer.load(second, path) == checkpointer.moment(path) == moment()
    assert torch.equal(torch.rand(3), noise)
    assert equal(first.model.state_dict(), second.model.state_dict())
    assert equal(first.average.average, second.average.average)
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert equal(first.optimizer.state[ours], second.optimizer.state[theirs])
    assert read_json(path / "config.json") == {"steps": 3}


def test_weights_are_read_by_name(folder):
    state = trained()
    Checkpointer(folder, keep=1).save(state, moment())
    assert equal(load_weights(folder.parent, average=False), state.model.state_dict())
    assert equal(load_weights(folder.parent), state.model.state_dict() | state.average.average)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_weights(folder)


def test_one_process_writes_plain_safetensors(folder):
    state = trained()
    path = Checkpointer(folder, keep=1).save(state, moment())
    (file,) = path.glob("*.safetensors")
    assert torch.equal(load_file(file)["weights/0.weight"], state.model[0].weight)


def test_large_checkpoints_are_split(folder, monkeypatch):
    monkeypatch.setattr(shards, "FILE_BYTES", 64)
    state = trained()
    path = Checkpointer(folder, keep=1).save(state, moment())
    assert len(list(path.glob("*.safetensors"))) > 3
    other = trained(seed=1)
    Checkpointer(folder, keep=1).load(other, path)
    assert equal(other.model.state_dict(), state.model.state_dict())


def test_the_last_are_kept_and_leftovers_go(folder):
    (folder / ".partial-step_00000001").mkdir(parents=True)
    checkpointer = Checkpointer(folder, keep=2)
    for step in (1, 2, 3, 3):
        checkpointer.save(trained(), moment(step))
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000002", "step_00000003"]


def test_without_room_nothing_is_written(folder, monkeypatch):
    checkpointer = Checkpointer(folder, keep=2)
    checkpointer.save(trained(), moment(1))
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(CheckpointError, match=r"takes 0.00 GB and only 0.00 GB are free; make room"):
        checkpointer.save(trained(), moment(2))
    assert [path.name for path in folder.iterdir()] == ["step_00000001"]


def test_a_disk_that_fails_is_one_sentence(folder, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(CheckpointError, match=r"step_00000001 cannot be written: .*No space left"):
        Checkpointer(folder, keep=2).save(trained(), moment())
    assert complete(folder) == []


def cut(path):
    os.truncate(path, path.stat().st_size - 3)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def lose(path):
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (harm, name)
        for harm in (cut, flip, lose)
        for name in ("shard_00000_000.safetensors", "state.json", "grid.json")
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_can_be_used(folder, harm, name):
    checkpointer = Checkpointer(folder, keep=3)
    first = trained()
    checkpointer.save(first, moment(1))
    path = checkpointer.save(trained(seed=1), moment(2))
    harm(path / name)
    with pytest.raises(
        CheckpointError, match=r"step_00000002 is damaged: .*; delete it to go on from step_00000001"
    ):
        checkpointer.load(trained(seed=2), checkpointer.newest())
    shutil.rmtree(path)
    state = trained(seed=2)
    checkpointer.load(state, checkpointer.newest())
    assert equal(state.model.state_dict(), first.model.state_dict())


def test_another_network_is_refused(folder):
    checkpointer = Checkpointer(folder, keep=1)
    path = checkpointer.save(trained(), moment())
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        checkpointer.load(trained(width=5), path)
    smaller = Trained(nn.Linear(3, 4), torch.optim.AdamW([torch.zeros(1)]))
    with pytest.raises(CheckpointError, match="more tensors are in only one of the two"):
        checkpointer.load(smaller, path)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_nothing_is_ever_unpickled(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpointer = Checkpointer(folder, keep=1)
    path = checkpointer.save(trained(), moment())
    (path / ".metadata").write_bytes(pickle.dumps(Payload()))
    checkpointer.load(trained(seed=1), path)
    file = path / "shard_00000_000.safetensors"
    file.write_bytes(pickle.dumps(Payload()))
    record = json.loads((path / "state.json").read_text())
    record["files"] = [vars(shards.FileRecord.of(file))]
    (path / "state.json").write_text(json.dumps(record))
    for read in (lambda: checkpointer.load(trained(seed=1), path), lambda: load_weights(folder.parent)):
        with pytest.raises(CheckpointError, match="is damaged"):
            read()
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"a": ["weights/a", [0, -1]]}, "begin at"),
        ({"a": ["weights/a", [0]]}, "begin at"),
        ({"a": ["weights/a", [10**12, 0]]}, "in part only"),
        ({"a": None}, "cannot be read"),
        ({}, "cannot be read"),
        ([], "cannot be read"),
    ],
)
def test_chunks_in_impossible_places_are_refused(tmp_path, places, message):
    save_file({"a": torch.zeros(2, 2)}, tmp_path / "x.safetensors", metadata={"places": json.dumps(places)})
    with pytest.raises(CheckpointError, match=message):
        shards.ShardReader(tmp_path, ["x.safetensors"])


def test_files_outside_the_checkpoint_are_not_read(folder):
    checkpointer = Checkpointer(folder, keep=1)
    path = checkpointer.save(trained(), moment())
    record = json.loads((path / "state.json").read_text())
    del record["content_crc32c"]
    for name in ("../../secret", "/etc/passwd", "a/b", ".."):
        (path / "state.json").write_text(json.dumps({**record, "documents": [name]}))
        with pytest.raises(CheckpointError, match=r"outside the checkpoint|no name of a file in its folder"):
            checkpointer.moment(path)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from test_checkpoints import moment, trained
from spatialvla.training.checkpoints import checkpointer as checkpoints
from spatialvla.training.checkpoints import shards
for folder, where, name, when in json.loads(sys.argv[1]):
    if os.fork() == 0:
        checkpointer = checkpoints.Checkpointer(Path(folder), keep=1)
        checkpointer.save(trained(), moment(1))
        module = {"shards": shards, "checkpoints": checkpoints}[where]
        done = getattr(module, name)
        def killed(*args, **options):
            if when == "after":
                done(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(module, name, killed)
        checkpointer.save(trained(seed=1), moment(2))
    assert os.wait()[1] == signal.SIGKILL
"""


def test_a_kill_while_saving_leaves_whole_checkpoints_only(tmp_path):
    kills = {
        ("shards", "save_file", "before"): "step_00000001",
        ("shards", "save_file", "after"): "step_00000001",
        ("checkpoints", "_write_json", "after"): "step_00000001",
        ("checkpoints", "_delete", "before"): "step_00000002",
        ("checkpoints", "_delete", "after"): "step_00000002",
    }
    jobs = [(str(tmp_path / str(number)), *kill) for number, kill in enumerate(kills)]
    here = os.path.dirname(__file__)
    command = [sys.executable, "-c", KILLED, json.dumps(jobs)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"})
    for number, left in enumerate(kills.values()):
        folder = tmp_path / str(number)
        checkpointer = Checkpointer(folder, keep=1)
        path = checkpointer.newest()
        assert path.name == left
        checkpointer.load(trained(seed=3), path)
        checkpointer.save(trained(), moment(3))
        assert [found.name for found in folder.iterdir()] == ["step_00000003"]

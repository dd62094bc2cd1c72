"""Runs under the real torchrun that are told to stop, and go on: two ranks over gloo, each with workers."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from told_dataset import write_told

from spatialvla.training.checkpoints.checkpointer import FOLDER, complete, load_weights
from spatialvla.training.config import DatasetConfig
from spatialvla.training.loop import train

SCRIPT = Path(__file__).with_name("paced_run.py")
PATIENCE = 300.0
"""Seconds for a run to get somewhere."""


def start(config, pace):
    file = config.out.with_suffix(".pickle")
    file.write_bytes(pickle.dumps(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*command, str(SCRIPT), str(file), str(pace)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), *sys.path])},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def below(parent):
    """All processes that descend from one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # gone meanwhile
            continue
    found, grown = {parent}, True
    while grown:
        children = {child for child, its in parents.items() if its in found}
        grown = not children <= found
        found |= children
    return found - {parent}


def steps(config):
    file = config.out / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def to_the_launcher(launcher):
    os.kill(launcher, signal.SIGTERM)


def to_all_groups(launcher):
    """As a scheduler does: the launcher, the ranks and their workers."""
    for group in {os.getpgid(process) for process in (launcher, *below(launcher))}:
        os.killpg(group, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("ask", [to_the_launcher, to_all_groups])
def test_sigterm_saves_and_the_run_goes_on_exactly(make_config, tmp_path, ask):
    config = make_config(steps=10, workers=2, ema_decay=0.9)
    straight = replace(config, out=tmp_path / "straight")
    _, errors = (process := start(straight, 0)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors

    launcher, end = start(config, 0.3), time.monotonic() + PATIENCE
    while steps(config) < 2:
        assert launcher.poll() is None, launcher.stderr.read()
        assert time.monotonic() < end, "the run gets nowhere"
        time.sleep(0.02)
    started = below(launcher.pid)
    assert len(started) >= 2 * (1 + 2)
    ask(launcher.pid)
    _, errors = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode != 0
    (saved,) = complete(config.out / FOLDER)
    assert saved.name == f"step_{steps(config):08d}", errors
    assert steps(config) < config.steps
    assert not any(Path(f"/proc/{process}").exists() for process in started)

    _, errors = (process := start(config, 0)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    for average in (False, True):
        expected, found = load_weights(straight.out, average), load_weights(config.out, average)
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.slow
def test_two_ranks_learn_from_several_cameras_what_one_does(make_config, request, tmp_path):
    """Each part of a rank's batch is one sample, so in many of them there is no state, or no wrist camera."""
    folders = write_told(tmp_path / "wrist"), write_told(tmp_path / "blind", wrist=False)
    config = make_config(
        datasets=tuple(DatasetConfig(str(folder), camera="observation.images.front") for folder in folders),
        policy=str(request.getfixturevalue("start")),
        add_camera=("wrist",),
        add_state=3,
        camera_dropout=0.3,
        state_dropout=0.5,
        accumulation=4,
        learning_rate=1e-3,
        steps=3,
        eval_every=1,
        held_out=0.5,
        precision="fp32",
    )
    alone = replace(config, out=tmp_path / "alone")
    train(alone, device="cpu")
    _, errors = (process := start(config, 0)).communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    expected, found = load_weights(alone.out), load_weights(config.out)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=3e-4, msg=name)
    told = [read(run)[-1] for run in (alone, config)]
    for name in ("loss", "loss/without_wrist", "loss/without_state", "present/wrist"):
        assert told[1][name] == pytest.approx(told[0][name], rel=1e-3), name


def read(config):
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == "validation"]

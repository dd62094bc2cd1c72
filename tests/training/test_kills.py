"""A run killed at random moments, also while saving, ends with the weights of an unbroken one, bit for bit."""

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from killed_run import work

PATIENCE = 600.0
"""Seconds for a run to get somewhere."""


@pytest.fixture
def start(monkeypatch):
    """Starts a process that works on a run; forked from one that has imported everything once."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["killed_run"])

    def started(config):
        process = processes.Process(target=work, args=(config,))
        process.start()
        return process

    return started


def steps_saved(config):
    folders = (config.out / "checkpoints").glob("step_*")
    return max((int(folder.name.removeprefix("step_")) for folder in folders), default=0)


def is_saving(config):
    return any((config.out / "checkpoints").glob(".partial*"))


def wait_until(condition, process):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.is_alive(), "the run ended before it could be killed"
        assert time.monotonic() < end, "the run gets nowhere"
        time.sleep(0.0005)


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_runs_end_as_unbroken_ones_do(make_config, tmp_path, start, kills):
    chance = random.Random(kills)
    config = make_config(steps=3 * (kills + 1), save_every=1, keep=2, ema_decay=0.9)
    straight = replace(config, out=tmp_path / "straight")
    unbroken = start(straight)
    while_saving = 0
    for kill in range(kills):
        process = start(config)
        before = steps_saved(config)
        wait_until(lambda before=before: steps_saved(config) > before, process)
        if kill % 2:
            wait_until(lambda: is_saving(config), process)
            time.sleep(chance.uniform(0, 0.003))
        else:
            time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        while_saving += is_saving(config)
    assert while_saving
    process = start(config)
    process.join(PATIENCE)
    unbroken.join(PATIENCE)
    assert process.exitcode == unbroken.exitcode == 0
    assert steps_saved(config) == config.steps
    weights = [run.out / "model" / "model.safetensors" for run in (config, straight)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

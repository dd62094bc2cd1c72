"""The recipes: their commands fit the command line and each other, and next to nothing runs to the end."""

import json
import os
import shlex
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from spatialvla.cli.main import VERBS
from spatialvla.cli.training_run import TrainingRun
from spatialvla.processor import Processor

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.sh"))
STAND_IN = """#!/usr/bin/env bash
# In the place of spatialvla: notes its arguments, and makes what the verb makes.
printf '%q ' "$@" >> commands; echo >> commands
verb=$1
[ "$verb" != "${FAILS:-}" ] || exit 75
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift ;;
    --cache) shift ;;
    made/*) [ -e "$1" ] || { echo "nothing made $1" >&2; exit 2; } ;;
  esac
  shift
done
case $verb in
  record) mkdir -p "$out/meta"; touch "$out/meta/info.json" ;;
  train-depth) mkdir -p "$out"; touch "$out/model.safetensors" ;;
  train) mkdir -p "$out/model"; touch "$out/model/config.json" ;;
  data) touch "$out" ;;
  results) ;;
  *) mkdir -p "$out"; touch "$out/config.json" ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """Runs a recipe with a stand-in for `spatialvla`; gives its exit code and the commands it gave."""
    program = tmp_path / "bin" / "spatialvla"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    noted = tmp_path / "commands"

    def run(recipe, size, **environment):
        noted.write_text("")
        settings = {"PATH": f"{program.parent}:{os.environ['PATH']}", "OUT": "made", "SIZE": size}
        done = subprocess.run([recipe], cwd=tmp_path, env={**os.environ, **settings, **environment})
        return done.returncode, [shlex.split(line) for line in noted.read_text().splitlines()]

    return run


@pytest.mark.parametrize("size", ["full", "tiny"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_command_is_one_and_finds_what_earlier_ones_made(run, recipe, size):
    code, commands = run(recipe, size)
    assert code == 0
    stages = [verb for verb, _ in groupby(command[0] for command in commands)]
    assert stages == [
        "record",
        "train-depth",
        "data",
        "train",
        "record",
        "train",
        "export",
        "evaluate",
        "results",
    ]
    for command in commands:
        words = 2 if command[0] == "data" else 1
        verb = VERBS[" ".join(command[:words])].parse(command[words:], "spatialvla")
        if isinstance(verb, TrainingRun):
            assert verb.configuration().statistics == Path("made/statistics.json")
    suites = 4 if size == "full" else 2
    assert sum(command[0] == "evaluate" for command in commands) == suites
    elsewhere = suites + 1 if recipe.stem == "nano-wrist" else 0
    assert sum(command[0] == "record" for command in commands) == 3 * suites + elsewhere


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_what_is_done_is_skipped_and_what_failed_is_tried_again(run, recipe):
    code, commands = run(recipe, "tiny", FAILS="train")
    assert (code, commands[-1][0]) == (75, "train")
    code, commands = run(recipe, "tiny")
    assert (code, commands[0][0]) == (0, "train")
    code, commands = run(recipe, "tiny")
    assert code == 0
    assert [command[0] for command in commands] == ["evaluate", "evaluate", "results"]
    assert run(recipe, "huge") == (2, [])


@pytest.mark.slow
@pytest.mark.sim
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_next_to_nothing_runs_to_the_end(recipe, tmp_path):
    pytest.importorskip("libero")
    program = tmp_path / "bin" / "spatialvla"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m spatialvla "$@"\n')
    program.chmod(0o755)
    out = tmp_path / "made"
    settings = {"PATH": f"{program.parent}:{os.environ['PATH']}", "OUT": str(out), "SIZE": "tiny"}
    subprocess.run([recipe], env=os.environ | settings, check=True)
    for suite in ("libero_spatial", "libero_goal"):
        played = json.loads((out / "evaluations" / suite / "results.json").read_text())["episodes"]
        assert len(played) == 2
    processor = Processor.from_pretrained(out / recipe.stem)
    assert processor.camera_names == (("image", "wrist") if recipe.stem == "nano-wrist" else ("image",))
    scales = {tuple(statistics.q99) for statistics in processor.statistics.values()}
    named = 7 if recipe.stem == "nano-wrist" else 4
    assert (len(processor.statistics), len(scales)) == (named, 1)

"""Every block of code in the README and in docs/ does what the page says.

Python runs, `spatialvla` commands run, and YAML is read by the code that is meant to read it. A comment above
a block says what is done instead, and why. `parse`: its commands are parsed by the real command line.
`serve`: its command serves the blocks below. `imports`: its imports run alone. `skip`: nothing. What a block
writes is there for the later blocks of its page.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from pages import PAGES, ROOT, Block, blocks

from spatialvla.cli.main import VERBS, main
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.oxe.spec_file import load_spec
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.guard.limits import Limits
from spatialvla.simulation.gym.mapping import GymMapping
from spatialvla.training.config_file import read_entries, with_entries
from spatialvla.training.recipes import finetune

YAML_READERS = {
    "feature mapping": FeatureMapping.load,
    "RLDS spec": load_spec,
    "client mapping": ClientMapping.load,
    "gym mapping": GymMapping.load,
    "limits": Limits.load,
    "calibration": RobotCalibration.load,
    "configuration": lambda path: with_entries(finetune("lora"), read_entries(Path(path)), Path(path)),
    "any YAML": lambda path: yaml.safe_load(Path(path).read_text()),
}
NOT_CODE = {"text", "mermaid", "bibtex"}
SKIPPED = {
    "takes hours in the simulator": 1,
    "needs a certificate": 1,
    "needs a policy with a wrist camera": 2,
    "needs a server and a camera": 1,
    "needs the results of an evaluation": 1,
}
PARSED_ALONE = {
    "takes half a minute": 1,
    "needs panda-gym": 1,
    "takes minutes in the simulator": 22,
    "takes minutes": 1,
    "takes hours": 21,
    "needs a large checkpoint": 1,
    "needs an environment with LeRobot": 1,
    "serves until it is stopped": 9,
    "needs results of evaluations": 4,
    "needs a dataset": 4,
    "needs a run and its datasets": 1,
    "needs a dataset with a wrist camera": 2,
    "needs a policy with a wrist camera": 1,
    "needs SimplerEnv's scenes": 1,
    "needs pictures of a board": 1,
    "needs a policy that LeRobot trained": 1,
    "8 GPUs": 1,
    "32 GPUs": 1,
}
READY = re.compile(r"ws://127\.0\.0\.1:(\d+)")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the root of a clone, to write in."""
    for name in ("docs", "examples", "tests", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    np.save(tmp_path / "depth.npy", np.full((224, 224), 0.8, np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page(page: Path, clone: Path):
    with contextlib.ExitStack() as servers:
        port = "8000"
        for block in blocks(page):
            try:
                match block.language, block.way:
                    case _, "skip":
                        pass
                    case "python", "":
                        exec(
                            compile(block.code.replace("8000", port), str(block), "exec"),
                            {"__name__": "block"},
                        )
                    case "python", "imports":
                        exec("\n".join(re.findall(r"^(?:import|from) .*", block.code, re.MULTILINE)), {})
                    case "bash", "" | "parse" | "serve":
                        for command in block.commands:
                            check_command(command, run=block.way == "")
                        if block.way == "serve":
                            port = servers.enter_context(server(block))
                    case "yaml", way:
                        Path("block.yaml").write_text(block.code)
                        YAML_READERS[way]("block.yaml")
                    case language, _:
                        assert language in NOT_CODE, f"a block in {language}"
            except BaseException as error:
                error.add_note(f"in the block at {block}")
                raise


def check_command(command: str, run: bool) -> None:
    """One line of a shell block: runs what is ours, or parses it; of others', that what they name is there."""
    words = shlex.split(command)
    while words and "=" in words[0]:
        words.pop(0)
    match words:
        case ["torchrun", *_] | ["python", "-m", "spatialvla", *_]:
            parse(words[words.index("spatialvla") + 1 :])
        case ["spatialvla", *arguments] if run:
            main(arguments)
        case ["spatialvla", *arguments]:
            parse(arguments)
        case ["python", script, *_] if script.endswith(".py"):
            assert (ROOT / script).is_file(), f"{script} is missing"
        case [script, *_] if script.endswith(".sh"):
            assert (ROOT / script).is_file(), f"{script} is missing"
        case ["make", target]:
            assert re.search(
                rf"^([\w -]* )?{target}(?![\w-])[\w -]*:", (ROOT / "Makefile").read_text(), re.MULTILINE
            ), target
        case ["pip", "install", *arguments]:
            check_extras(arguments)
        case _:
            pass


def parse(arguments: list[str]) -> None:
    """Reads arguments by the real command line; fails where a verb or an option is unknown."""
    words = 2 if arguments[0] == "data" else 1
    name = " ".join(arguments[:words])
    try:
        VERBS[name].parse(arguments[words:], f"spatialvla {name}")
    except SystemExit:
        raise AssertionError(f"spatialvla {shlex.join(arguments)} cannot be parsed") from None


def check_extras(arguments: list[str]) -> None:
    """Each extra that is installed is one that some pyproject.toml here has."""
    files = [ROOT / "pyproject.toml", *ROOT.glob("packages/*/pyproject.toml")]
    projects = [tomllib.loads(file.read_text())["project"] for file in files]
    known = {extra for project in projects for extra in project["optional-dependencies"]}
    for argument in arguments:
        if extras := re.search(r"\[([\w,-]+)\]", argument):
            assert set(extras[1].split(",")) <= set(known), argument


@contextlib.contextmanager
def server(block: Block) -> Iterator[str]:
    """Runs the block's `spatialvla serve`, and gives the port once it is ready."""
    (command,) = (words for words in map(shlex.split, block.commands) if words[:2] == ["spatialvla", "serve"])
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        yield next(port[1] for line in process.stdout if (port := READY.search(line)))
    finally:
        process.terminate()
        process.wait(30)


def test_what_does_not_run_is_known():
    """A block that is skipped or only parsed is counted here, too, by its reason."""

    def reasons(way: str) -> dict[str, int]:
        marked = [block.marker for page in PAGES for block in blocks(page) if block.way == way]
        return dict(Counter(marker.removeprefix(f"{way} (").removesuffix(")") for marker in marked))

    assert reasons("skip") == SKIPPED
    assert reasons("parse") == PARSED_ALONE


def test_every_block_is_fenced():
    """Indented code would not be found, and so not be tested."""
    for page in PAGES:
        outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"(?:^|\n)\n    [^\s-]", outside), page

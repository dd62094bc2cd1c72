"""The page about LeRobot names options that there are."""

from __future__ import annotations

import re
import shlex

import draccus
import pytest
from lerobot.configs.train import TrainPipelineConfig

from conftest import ROOT
from lerobot_policy_spatialvla import SpatialVLAConfig

PAGE = (ROOT / "docs" / "how-to" / "lerobot.md").read_text()


def test_every_option_of_the_policy_is_one():
    names = {name for name in re.findall(r"--policy\.([\w.]+)", PAGE) if name not in ("type", "path")}
    assert "start.policy" in names
    for name in names:
        here = SpatialVLAConfig(device="cpu")
        for part in name.split("."):
            assert hasattr(here, part), name
            here = getattr(here, part)


@pytest.mark.parametrize("program", ["lerobot-train"])
def test_the_commands_are_parsed(program):
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)).replace("\\\n", " ")
    (line,) = (line for line in blocks.splitlines() if line.startswith(program))
    config = draccus.parse(TrainPipelineConfig, args=shlex.split(line)[1:])
    assert config.policy.start.policy == "nano"
    assert (ROOT / config.policy.mapping).is_file()
    assert (ROOT / config.dataset.root).is_dir()

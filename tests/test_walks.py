"""The ways through the package stay short: how many files a value runs through, counted at run time."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "walks.py"


@pytest.mark.parametrize(
    ("way", "most"),
    [
        ("image -> action", 14),
        ("RLDS record -> loss", 25),
        ("LeRobot episode -> loss", 26),
        ("openpi message -> reply", 22),
    ],
)
def test_ways_stay_short(way, most):
    command = [sys.executable, str(SCRIPT), "--way", way, "--files"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(rf"{way}: (\d+) files", told)
    assert found, told
    assert 5 < int(found[1]) <= most, told

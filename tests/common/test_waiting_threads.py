"""Torch's threads sleep while they wait in whatever the command line starts, unless the user chose otherwise."""

import os
import subprocess
import sys

import pytest

from spatialvla.common.waiting_threads import let_threads_sleep


def test_they_sleep_unless_the_user_chose():
    environment = {"PATH": "/bin"}
    let_threads_sleep(environment)
    assert environment == {"PATH": "/bin", "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    for chosen in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"KMP_BLOCKTIME": "200"}, {"GOMP_SPINCOUNT": "100"}):
        environment = dict(chosen)
        let_threads_sleep(environment)
        assert environment == chosen


COMMAND = """
import sys
from spatialvla.cli.main import main
main(["--version"])
assert "torch" not in sys.modules
import torch
"""


@pytest.mark.parametrize(("chosen", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_torch_is_loaded_after_it_is_said(chosen, policy):
    """By what OpenMP itself shows as it is loaded."""
    kept = {name: value for name, value in os.environ.items() if name[:4] not in ("OMP_", "KMP_", "GOMP")}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_DISPLAY_ENV": "TRUE", **chosen}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], env=environment, check=True, capture_output=True, text=True
    )
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr.replace('"', "'")

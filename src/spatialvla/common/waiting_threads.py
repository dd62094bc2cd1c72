"""How torch's threads wait for work on a CPU, which has to be said before torch is loaded."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""For GNU's OpenMP, and for Intel's and LLVM's."""

_USERS = {*_SETTINGS, "GOMP_SPINCOUNT", "KMP_LIBRARY"}


def let_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes threads sleep while they wait, in this process and those it starts, unless the user has chosen.

    OpenMP's threads spin by default, which takes the core from whoever else would use it: beside other work
    a step then waits for threads that do not run. docs/measurements/training.md has the numbers.
    """
    if not _USERS & environment.keys():
        environment.update(_SETTINGS)

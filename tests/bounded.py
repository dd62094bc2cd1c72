"""Code in a process of its own that may take only so much memory and time."""

import os
import subprocess
import sys
from pathlib import Path

_LIMIT = """
import resource

def bound(mib):
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + mib * 2**20,) * 2)
"""


def run_bounded(code: str, *arguments: str | Path, seconds: float = 20) -> str:
    """What `code` prints; it calls `bound(mib)` once it has imported all it needs.

    Fails the test where it ends with an error or takes longer.
    """
    single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(
        [sys.executable, "-c", _LIMIT + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **single, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

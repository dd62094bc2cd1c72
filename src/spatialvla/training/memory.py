"""Keep freed memory in the process while training on a CPU."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 256 * 1024**2


def keep_memory() -> None:
    """Tell glibc not to return large blocks to the system; other C libraries are left alone.

    Every activation of a step would otherwise be mapped and zeroed anew by the kernel, a quarter of a step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD)):
        mallopt(option, value)

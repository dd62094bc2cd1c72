"""Process settings that make training and inference on a CPU fast."""

from __future__ import annotations

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 256 * 1024**2


def tune_cpu() -> None:
    """Keep freed memory in the process, and treat denormal numbers as zero.

    glibc would hand every large activation back to the kernel, to be mapped and zeroed anew in the next step:
    a quarter of its time. Other C libraries are left alone. Denormals, as in Adam's moments of tokens not
    seen for long, are computed a hundred times slower than zeros.
    """
    torch.set_flush_denormal(True)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD)):
        mallopt(option, value)

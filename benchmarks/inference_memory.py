"""What a chunk needs in memory, and how a process keeps or returns what it freed: for `inference.py`."""

from __future__ import annotations

import ctypes
import resource

import torch

from spatialvla.common.cpu import tune_cpu


def keep_freed_memory(keep: bool) -> None:
    """As `tune_cpu` does, which the command line calls for our policies; or as glibc does by itself after a while."""
    if keep:
        tune_cpu()
        return
    mallopt = ctypes.CDLL(None).mallopt
    # mmap_max, mmap_threshold, trim_threshold, top_pad: glibc's own, the thresholds as high as they adjust
    # themselves.
    for option, value in ((-4, 65536), (-3, 32 << 20), (-1, 64 << 20), (-2, 128 << 10)):
        mallopt(option, value)


def reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def used_memory(device: torch.device) -> float:
    """GB at the peak; on a CPU of the process since its start, weights of both ways included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

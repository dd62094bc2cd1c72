"""The device that a user names, or the best one there is."""

from __future__ import annotations

import torch

from spatialvla.errors import InputError


def find_device(name: torch.device | str | None = None) -> torch.device:
    """The device of that name; None and "auto" are the GPU where there is one, else the CPU.

    Raises InputError for what names no device, and for a GPU that is not here.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"There is no device called {name!r}; choose cpu, cuda, cuda:1 or auto.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"PyTorch sees no GPU {name} here; choose another --device, such as cpu.")
    return device

"""Actions as LeRobot's client unpickles them, written opcode by opcode.

They name LeRobot's own class and torch, so the client needs nothing of ours.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence

import numpy as np

from spatialvla.serving.lerobot.objects import HELPERS


def actions_pickle(actions: np.ndarray, timestamps: Sequence[float], timesteps: Sequence[int]) -> bytes:
    """A pickled list of LeRobot's `TimedAction`, each with its action (7,) as a float32 tensor."""
    writer = _Writer()
    for action, timestamp, timestep in zip(actions, timestamps, timesteps, strict=True):
        writer.timed_action(action, timestamp, timestep)
    return writer.finished()


class _Writer:
    """Protocol 2, which every Python reads."""

    def __init__(self) -> None:
        self._parts = [pickle.PROTO, b"\x02", pickle.EMPTY_LIST, pickle.MARK]

    def timed_action(self, action: np.ndarray, timestamp: float, timestep: int) -> None:
        self._name(HELPERS, "TimedAction")
        self._parts += [pickle.EMPTY_TUPLE, pickle.NEWOBJ, pickle.EMPTY_DICT, pickle.MARK]
        self._text("timestamp")
        self._number(timestamp)
        self._text("timestep")
        self._parts += [pickle.BININT, struct.pack("<i", timestep)]
        self._text("action")
        self._name("torch", "tensor")
        self._parts += [pickle.EMPTY_LIST, pickle.MARK]
        for number in action:
            self._number(float(number))
        self._parts += [pickle.APPENDS, pickle.TUPLE1, pickle.REDUCE, pickle.SETITEMS, pickle.BUILD]

    def finished(self) -> bytes:
        return b"".join([*self._parts, pickle.APPENDS, pickle.STOP])

    def _name(self, module: str, name: str) -> None:
        self._parts += [pickle.GLOBAL, f"{module}\n{name}\n".encode()]

    def _text(self, text: str) -> None:
        raw = text.encode()
        self._parts += [pickle.BINUNICODE, struct.pack("<I", len(raw)), raw]

    def _number(self, number: float) -> None:
        self._parts += [pickle.BINFLOAT, struct.pack(">d", number)]

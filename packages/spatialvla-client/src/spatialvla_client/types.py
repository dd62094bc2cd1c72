"""What a client sends and what it gets back: an observation and a chunk of actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class CameraImage:
    """What one camera sees now; the parts are as in `Observation`."""

    image: np.ndarray
    intrinsics: np.ndarray | None = None
    depth: np.ndarray | None = None
    extrinsics: np.ndarray | None = None


@dataclass(frozen=True)
class Observation:
    """What the robot sees now, and how its arm stands.

    image: (H, W, 3) uint8 RGB of the policy's first camera; None where that is in `images`.
    instruction: what to do, in plain words.
    intrinsics: K, (3, 3), in pixels of the image; None takes the camera the policy was trained with.
    depth: (H, W) meters along the optical axis, from a sensor; None lets the policy estimate it.
    position: (3,) meters of the gripper, in the frame of the server's workspace limits.
    extrinsics: (4, 4) camera -> robot base, in meters, with the camera's axes x right, y down, z forward; needed by
    policies that work in the robot's frame, unless the server has a calibration.
    images: more cameras by the names that `Client.metadata` has for them under `cameras`. One that is left out is
    missing, and the policy does without.
    state: (S,) the arm's own numbers, as the policy's data has them; `metadata["state"]` names them. None where they
    are missing.
    """

    image: np.ndarray | None
    instruction: str
    intrinsics: np.ndarray | None = None
    depth: np.ndarray | None = None
    position: np.ndarray | None = None
    extrinsics: np.ndarray | None = None
    images: Mapping[str, CameraImage] = field(default_factory=dict)
    state: np.ndarray | None = None


@dataclass(frozen=True)
class Uncertainty:
    """How sure the policy was of each step of its chunk, however many of them are to be executed.

    entropy: (T, 3) bits of the translation's, rotation's and gripper's probabilities; 0 is sure.
    spread_mm: (T,) root mean square distance, in millimeters, of the translations that it thought possible from their
    mean; NaN where the units of the actions are not known.
    """

    entropy: np.ndarray
    spread_mm: np.ndarray


@dataclass(frozen=True)
class ActionChunk:
    """Actions for the next steps, first to last.

    actions: (T, 7) Δx Δy Δz Δroll Δpitch Δyaw gripper. `Client.metadata` tells the units and the gripper's
    range.
    tokens: (T, 3) the tokens they were decoded from; −1 in steps that only fill the chunk up.
    timing: milliseconds by stage on the server, and `round_trip_ms`.
    uncertainty: of the policy; None unless the server was started with `--uncertainty`.
    """

    actions: np.ndarray
    tokens: np.ndarray
    timing: Mapping[str, float] = field(default_factory=dict)
    uncertainty: Uncertainty | None = None

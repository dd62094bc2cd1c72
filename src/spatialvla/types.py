"""What crosses a policy's boundary: an observation in, a chunk of actions out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Real, UInt8
from PIL.Image import Image

ACTION_AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""What the seven numbers of an action are, in order."""


@dataclass(frozen=True)
class Observation:
    """What a robot sees at one moment.

    image: RGB, or a PIL image of any mode.
    instruction: what to do, in plain words.
    intrinsics: K in pixels of `image`; None takes the checkpoint's own camera.
    depth: meters along the optical axis, from a sensor with the image's field of view; None lets the model
    estimate it.
    extrinsics: camera -> robot base, in meters, of the real camera (x right, y down, z forward); needed by checkpoints
    whose Ego3D works in the robot's frame, and not used by others.
    mirrored: the picture is flipped left to right, as LIBERO's are; `intrinsics` are those of the flipped picture.
    """

    image: UInt8[np.ndarray, "H W 3"] | Image
    instruction: str
    intrinsics: Real[np.ndarray, "3 3"] | None = None
    depth: Float[np.ndarray, "h w"] | None = None
    extrinsics: Real[np.ndarray, "4 4"] | None = None
    mirrored: bool = False


@dataclass(frozen=True)
class ActionChunk:
    """Actions for the next steps, first to last.

    actions: Δx, Δy, Δz, Δroll, Δpitch, Δyaw in the dataset's units, gripper in [0, 1] with 1 = open; float64.
    tokens: translation, rotation and gripper token on the action grid.
    """

    actions: Float[np.ndarray, "T 7"]
    tokens: Int[np.ndarray, "T 3"]

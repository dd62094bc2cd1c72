"""What crosses a policy's boundary: an observation in, a chunk of actions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Real, UInt8
from PIL.Image import Image

from spatialvla.errors import InputError

ACTION_AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
"""What the seven numbers of an action are, in order."""


Picture = UInt8[np.ndarray, "H W 3"] | Image
"""RGB, or a PIL image of any mode."""


@dataclass(frozen=True)
class CameraImage:
    """What one camera sees at one moment; see `Observation` for what each part is."""

    image: Picture
    intrinsics: Real[np.ndarray, "3 3"] | None = None
    depth: Float[np.ndarray, "h w"] | None = None
    extrinsics: Real[np.ndarray, "4 4"] | None = None
    mirrored: bool = False


@dataclass(frozen=True)
class Observation:
    """What a robot sees, and how its arm stands, at one moment.

    image: RGB, or a PIL image of any mode, of the model's first camera; the next four are of that camera, too.
    instruction: what to do, in plain words.
    intrinsics: K in pixels of `image`; None takes the checkpoint's own camera.
    depth: meters along the optical axis, from a sensor with the image's field of view; None lets the model
    estimate it.
    extrinsics: camera -> robot base, in meters, of the real camera (x right, y down, z forward); needed by checkpoints
    whose Ego3D works in the robot's frame, and not used by others.
    mirrored: the picture is flipped left to right, as LIBERO's are; `intrinsics` are those of the flipped picture.
    images: cameras by the names that the model has for them; the first may stand here instead of in `image`. One that
    is left out is missing, and the model does without.
    state: the arm's own numbers, in the layout and units of the data that the model was trained on; None where they
    are missing.
    """

    image: Picture | None = None
    instruction: str = ""
    intrinsics: Real[np.ndarray, "3 3"] | None = None
    depth: Float[np.ndarray, "h w"] | None = None
    extrinsics: Real[np.ndarray, "4 4"] | None = None
    mirrored: bool = False
    images: Mapping[str, CameraImage] = field(default_factory=dict)
    state: Real[np.ndarray, " S"] | None = None

    def cameras(self, first: str) -> Mapping[str, CameraImage]:
        """What each camera sees. first: the name of the one that `image` is of.

        Raises InputError where that is given twice, or what belongs to an image without it, and where `images` holds
        something else than a CameraImage by name.
        """
        if not isinstance(self.images, Mapping):
            raise InputError(
                f"An Observation's images are CameraImages by name, not a {type(self.images).__name__}."
            )
        for name, one in self.images.items():
            if not isinstance(name, str) or not isinstance(one, CameraImage):
                raise InputError(
                    f"An Observation's images are CameraImages by name; write {{{name!r}: CameraImage(...)}} where now "
                    f"is a {type(one).__name__}, and leave out cameras that are missing."
                )
        if self.image is None:
            parts = ("intrinsics", "depth", "extrinsics")
            stray = [name for name in parts if getattr(self, name) is not None]
            stray += ["mirrored"] if self.mirrored else []
            if stray:
                raise InputError(
                    f"The observation has {stray[0]} of the first camera without its image; give it to the "
                    "CameraImage that it is of."
                )
            return self.images
        if first in self.images:
            raise InputError(f"The camera {first} is given twice, as image and in images; leave one out.")
        seen = CameraImage(self.image, self.intrinsics, self.depth, self.extrinsics, self.mirrored)
        return {first: seen, **self.images}


Readout = Literal["likeliest", "mean"]
"""The action that a policy says: of each step's likeliest tokens, as published, or the mean over all of them."""


@dataclass(frozen=True)
class Uncertainty:
    """How sure a policy was of each step's cells.

    entropy: in bits, of the translation's, rotation's and gripper's probabilities over all cells of their kind; 0 is
    sure. spread_mm: root mean square distance, in millimeters, of the translations that it thought possible from their
    mean; NaN where the units of the actions are not known. T: steps of the whole chunk, however many are executed.
    probabilities: of all cells of the translation, the rotation and the gripper; None where they were not kept.
    """

    entropy: Float[np.ndarray, "T 3"]
    spread_mm: Float[np.ndarray, " T"]
    probabilities: tuple[Float[np.ndarray, "T _"], ...] | None = None

    def told(self) -> dict[str, np.ndarray]:
        """What a client is told: entropy and spread_mm. The probabilities take as much room as a picture."""
        return {"entropy": self.entropy, "spread_mm": self.spread_mm}

    @property
    def mean_bits(self) -> float:
        """Entropy of a step's translation, rotation and gripper together, averaged over the steps."""
        return float(self.entropy.sum(axis=1).mean())

    @property
    def mean_mm(self) -> float:
        """Spread averaged over the steps, in millimeters."""
        return float(self.spread_mm.mean())


@dataclass(frozen=True)
class ActionChunk:
    """Actions for the next steps, first to last.

    actions: Δx, Δy, Δz, Δroll, Δpitch, Δyaw in the dataset's units, gripper in [0, 1] with 1 = open; float64.
    tokens: the likeliest translation, rotation and gripper token on the action grid; which actions they stand for
    depends on the policy's readout. Where the actions are averages of several chunks, the newest one's; −1 in steps
    that stand still because no chunk says anything of them.
    uncertainty: of the policy, over the whole chunk that it predicted; None unless it was asked for.
    """

    actions: Float[np.ndarray, "T 7"]
    tokens: Int[np.ndarray, "T 3"]
    uncertainty: Uncertainty | None = None

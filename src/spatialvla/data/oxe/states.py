"""The arm's own state in a dataset: which of its numbers, in which order, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from spatialvla.data.arm_state import state_names
from spatialvla.data.hand_motions import Numbers, joined
from spatialvla.data.mapping_lines import StateMapping
from spatialvla.errors import InputError

PAD = -1
"""In place of an index: a number that is always 0."""

EULER = ("x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper")
QUATERNION = ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
JOINTS = ("joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6", "joint_7", "gripper")
"""The three encodings of Octo and OpenVLA, of eight numbers each, so that datasets mix in one model."""


@dataclass(frozen=True)
class RLDSState:
    """Which numbers of a step say how the arm stands, in the dataset's units.

    features: keys of a step, whose numbers are joined. indices: which of those, in this order, PAD for a 0; all
    unless given. names: of the state's numbers; () before a user's features are known.
    """

    features: tuple[str, ...]
    indices: tuple[int, ...] = ()
    names: tuple[str, ...] = QUATERNION

    def checked(self, known: Mapping[str, Numbers]) -> RLDSState:
        """With the names of its numbers. known: the numbers of each step that a dataset has, by key.

        Raises InputError, a sentence without the dataset's name in front, where they are not those of the state.
        """
        if not self.names:
            try:
                names = state_names(StateMapping(self.features, self.indices), known)
            except InputError as error:
                raise InputError(f"does not fit its spec: {error}") from None
            return replace(self, names=names)
        for key in self.features:
            if key not in known:
                raise InputError(f"has no numbers '{key}' at each step, which are to be the arm's state.")
        size, keys = sum(known[key].size for key in self.features), "', '".join(self.features)
        if self.indices and not -1 <= max(self.indices) < size:
            raise InputError(
                f"has a state of {size} numbers under '{keys}', of which there is no number {max(self.indices)}."
            )
        if not self.indices and size != len(self.names):
            raise InputError(f"has a state of {size} numbers under '{keys}', not of {len(self.names)}.")
        return self

    def values(self, numbers: Mapping[str, np.ndarray]) -> Float[np.ndarray, "T S"]:
        """The state at each of T steps. numbers: (T, …) of each feature.

        Raises InputError for numbers that are not finite, naming the step.
        """
        found = joined(numbers, self.features, ())
        if self.indices:
            padded = np.pad(found, ((0, 0), (0, 1)))  # PAD is the last
            found = padded[:, list(self.indices)]
        if not (finite := np.isfinite(found).all(axis=1)).all():
            raise InputError(
                f"the state of step {int(np.argmin(finite))} is not finite; leave the episode out, or give a spec file "
                "with the line 'state: none'."
            )
        return found

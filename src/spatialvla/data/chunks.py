"""The actions from a step on, with what follows after the end of an episode."""

from __future__ import annotations

import numpy as np


def action_chunks(actions: np.ndarray, steps: np.ndarray, ends: np.ndarray | int, chunk: int) -> np.ndarray:
    """(B, chunk, 7): the actions from each of the `steps` (B,) on.

    actions: (N, 7) of one or more episodes. ends: (B,) or one number, one past the last step of each one's episode.
    Past the end the robot stands still: relative dimensions are 0 and the gripper repeats.
    """
    rows = steps[:, None] + np.arange(chunk)
    last = np.broadcast_to(ends, steps.shape)[:, None] - 1
    found = actions[np.minimum(rows, last)]
    found[rows > last, :6] = 0
    return found

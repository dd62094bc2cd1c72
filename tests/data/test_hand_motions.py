"""Grippers of any convention come out as 1 = open."""

import numpy as np
import pytest

from spatialvla.data.hand_motions import GripperMapping


@pytest.mark.parametrize(
    ("mapping", "stored", "opening"),
    [
        (GripperMapping(), [0, 0.5, 1, 2], [0, 0.5, 1, 1]),
        (GripperMapping(open=0, min=0, max=100), [0, 25, 100, -3], [1, 0.75, 0, 1]),
        # Commands: what lies halfway changes nothing, and before the first the gripper is the opposite of it.
        (GripperMapping(open=0, min=-1, commands=True), [0, 1, 0, 0, -1, 0.05, 1], [1, 0, 0, 0, 1, 1, 0]),
        (GripperMapping(open=1, min=-1, commands=True), [0, 1, 0, -1, 0], [0, 1, 1, 0, 0]),
        (GripperMapping(min=-1, commands=True), [0, 0], [1, 1]),
    ],
)
def test_openings(mapping, stored, opening):
    np.testing.assert_allclose(mapping.opening(np.array(stored, np.float64)), opening)

"""The annotations of arrays are checked while tests run."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from spatialvla.actions.grids import ActionGrid
from spatialvla.errors import InputError

WRONG = np.zeros((3, 6))


def test_a_wrong_shape_is_found():
    with pytest.raises(TypeCheckError, match=r"\*steps 7"):
        ActionGrid.uniform().encode(WRONG)


@pytest.mark.wrong_arrays
def test_a_marked_test_hears_what_users_hear():
    with pytest.raises(InputError):
        ActionGrid.uniform().encode(WRONG)

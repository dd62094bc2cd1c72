"""A dtype by its name, as other libraries take it."""

import pytest
import torch

from spatialvla.common.dtypes import find_dtype
from spatialvla.errors import InputError


@pytest.mark.parametrize("name", [torch.bfloat16, "bfloat16", "torch.bfloat16", "bf16"])
def test_a_dtype_has_several_names(name):
    assert find_dtype(name) == torch.bfloat16


@pytest.mark.parametrize("name", ["bfloat", "int8", torch.int8, "Tensor"])
def test_what_is_no_dtype_of_weights_is_one_sentence(name):
    with pytest.raises(
        InputError, match=r"^There is no dtype of weights called '\w+'; (did you mean|choose from) "
    ):
        find_dtype(name)

"""Settings of all tests."""

import os

import jaxtyping
import pytest
import torch
from hypothesis import settings

# Busy machines stall: an example that takes long is no failure.
settings.register_profile("default-tests", deadline=None, max_examples=50)
settings.load_profile("default-tests")

if not torch.cuda.is_available():
    # Before anything imports Triton: its kernels run on the CPU then, line by line.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def denormals_stay():
    """Training and the command line flush denormals in their process, which hypothesis in other tests objects to."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def wrong_arrays_pass(request):
    """Tests of what is said about wrong arrays get past their types; see `array_types`."""
    jaxtyping.config.update("jaxtyping_disable", request.node.get_closest_marker("wrong_arrays") is not None)

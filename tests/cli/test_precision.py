"""`--precision auto`: what is fastest on this machine without costing successes."""

import pytest
import torch

from spatialvla.cli.policy_options import PolicyOptions
from spatialvla.kernels import library


@pytest.mark.skipif(not library.available(), reason="needs AVX-512 with BF16 and VNNI, and a C++ compiler")
def test_bfloat16_where_the_kernels_are():
    assert PolicyOptions("nano", device="cpu").load().model.dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_float32_where_they_are_not(device, monkeypatch):
    monkeypatch.setattr(library, "library", lambda: None)
    assert PolicyOptions("nano", device=device).load().model.dtype == torch.float32

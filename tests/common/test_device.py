"""A device is found by its name, and one that is not here is said so in a sentence."""

import pytest
import torch

from spatialvla.common.device import find_device
from spatialvla.errors import InputError


@pytest.mark.parametrize(("gpus", "found"), [(0, "cpu"), (2, "cuda")])
@pytest.mark.parametrize("name", [None, "auto"])
def test_the_best_device_is_taken_unless_one_is_named(monkeypatch, gpus, found, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    assert find_device(name) == torch.device(found)


def test_a_named_device_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(find_device(name)) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpu", "There is no device called 'gpu'; choose cpu, cuda, cuda:1 or auto."),
        ("cuda:2", "PyTorch sees no GPU cuda:2 here; choose another --device, such as cpu."),
    ],
)
def test_a_device_that_is_not_here_is_one_sentence(monkeypatch, name, sentence):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError) as error:
        find_device(name)
    assert str(error.value) == sentence

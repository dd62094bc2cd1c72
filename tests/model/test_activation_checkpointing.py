"""Activation checkpointing: less is kept for the backward pass, and the gradients stay the same numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spatialvla import Processor, SpatialVLA

REFERENCE = Path(__file__).parent.parent / "goldens" / "reference"


def a_batch():
    processor = Processor.from_pretrained(REFERENCE / "checkpoint")
    image = Image.open(next((REFERENCE / "images").glob("*.png"))).convert("RGB")
    actions = np.random.default_rng(0).uniform(-0.01, 0.01, (2, 2, 7))
    return processor([image, image], ["stop", "open the drawer"], "tiny_robot/0.1.0", actions=actions)


def gradients(checkpointing: bool, training: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients by parameter, and how many bytes were kept to compute them."""
    model = SpatialVLA.from_pretrained(REFERENCE / "checkpoint").train(training)
    model.checkpoint_activations(True)
    model.checkpoint_activations(checkpointing)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.training_loss(a_batch()).loss
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, sum(kept.values())


@pytest.mark.parametrize("training", [True, False])
def test_same_gradients_from_less(training):
    plain, all_kept = gradients(False, training)
    again, some_kept = gradients(True, training)
    assert plain.keys() == again.keys()
    assert len(plain) > 50
    assert all(torch.equal(again[name], gradient) for name, gradient in plain.items())
    assert some_kept < 0.8 * all_kept


def test_generation_is_untouched():
    batch = Processor.from_pretrained(REFERENCE / "checkpoint")([np.zeros((60, 60, 3), np.uint8)], ["stop"])
    model = SpatialVLA.from_pretrained(REFERENCE / "checkpoint")
    tokens = model.generate(batch)
    model.checkpoint_activations()
    assert torch.equal(model.train().generate(batch), tokens)

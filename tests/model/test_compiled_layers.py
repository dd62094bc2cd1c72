"""Training with compiled layers computes what it computes without."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from spatialvla import Processor, SpatialVLA
from spatialvla.model.fast.compiled import compile_layers

REFERENCE = Path(__file__).parent.parent / "goldens" / "reference"


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_gradients_and_names_stay(checkpointing):
    processor = Processor.from_pretrained(REFERENCE / "checkpoint")
    image = Image.open(min((REFERENCE / "images").glob("*.png"))).convert("RGB")
    actions = processor.statistics["tiny_robot/0.1.0"].denormalize(torch.zeros(1, 2, 7).numpy())
    losses, gradients, names = [], [], []
    for compiled in (False, True):
        model = SpatialVLA.from_pretrained(REFERENCE / "checkpoint").train()
        model.checkpoint_activations(checkpointing)
        if compiled:
            compile_layers(model)
        for prompt in ("stop", "open the drawer"):
            batch = processor([image], [prompt], dataset="tiny_robot/0.1.0", actions=actions)
            loss = model.training_loss(batch).loss
            loss.backward()
            losses.append(loss.detach())
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        names.append(list(model.state_dict()))
    torch.testing.assert_close(losses[2:], losses[:2])
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)
    assert names[0] == names[1]

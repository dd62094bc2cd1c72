"""What experiments on Ego3D share: a trained policy's weights with another Ego3D, and the tasks that rows play."""

from __future__ import annotations

from pathlib import Path

import torch

from spatialvla.model.config import Ego3DFrame
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.simulation.libero.plus import variations

_MLP = "position_embedding_3d"


def saved_start(
    policy: str, folder: Path, seed: int, *, ego3d: bool, frame: Ego3DFrame | None = None, fresh: bool = True
) -> Path:
    """The policy's weights in a network with another Ego3D, in `folder`, where they are written once.

    ego3d: whether it has one. frame: whose, the policy's unless given. fresh: its MLP starts from random weights.
    """
    if not (folder / "config.json").exists():
        torch.manual_seed(seed)
        trained = SpatialVLA.from_pretrained(policy)
        frame = frame or trained.config.ego3d_frame
        model = SpatialVLA(trained.config.replace(use_vision_zoe=ego3d, ego3d_frame=frame))
        own = model.state_dict()
        kept = {
            name: weights
            for name, weights in trained.state_dict().items()
            if name in own and not (fresh and name.startswith(_MLP))
        }
        model.load_state_dict(own | kept)
        Processor.from_pretrained(policy).save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def evenly_taken(suite: str, count: int) -> list[str]:
    """Numbers of so many of a LIBERO-plus suite's tasks, as `evaluate --tasks` takes them."""
    total = len(variations(suite))
    return [str(number * total // count) for number in range(count)]

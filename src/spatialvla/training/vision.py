"""A first stage for networks without pre-trained vision: the image encoder alone learns where things are.

A vision tower with random weights learns little from action tokens: earlier tokens of a chunk predict most of the
next ones. Regressing positions straight from its features is a far stronger signal, and without the decoder each
sample costs a third.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.data.samples import EpisodeSamples, IndexStream
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.batches import BatchSource
from spatialvla.training.config import TrainConfig
from spatialvla.training.optimizer import course
from spatialvla.training.privileged import LINEAR_FROM, PrivilegedTargets, standardised

QUERIES = 8


class AttentionHead(nn.Module):
    """Reads numbers off image features: queries that depend on the task attend over the patches. Discarded later."""

    def __init__(self, width: int, tasks: int, targets: int) -> None:
        super().__init__()
        self.queries = nn.Embedding(tasks, QUERIES * width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Sequential(nn.Linear(QUERIES * width, 256), nn.GELU(), nn.Linear(256, targets))

    def forward(self, features: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """(B, N, width) features and (B,) task numbers -> (B, targets)."""
        queries = self.queries(tasks).unflatten(1, (QUERIES, -1))
        mixed = F.scaled_dot_product_attention(queries, self.key(features), self.value(features))
        return self.out(mixed.flatten(1))


def vision_targets(samples: EpisodeSamples, config: TrainConfig) -> torch.Tensor:
    """(N, targets) float32, standardised: the privileged numbers and the actions of each frame's chunk."""
    chunks = samples.chunks(np.arange(len(samples)))
    actions = standardised(chunks[..., [0, 1, 2, 6]].reshape(len(samples), -1))
    privileged = PrivilegedTargets(samples, config.privileged).values
    return torch.from_numpy(np.concatenate([privileged, actions], axis=1))


def pretrain_vision(
    model: SpatialVLA,
    source: BatchSource,
    frames: np.ndarray,
    config: TrainConfig,
    steps: int,
    log: Path,
) -> None:
    """Trains the vision tower and the Ego3D encoding in place for `steps` batches of `frames`.

    Writes the mean loss of every 100 steps to `log`, one number a line.
    """
    samples = source.samples
    targets = vision_targets(samples, config)
    names = sorted(set(samples.instructions))
    tasks = torch.tensor([names.index(samples.instructions[episode]) for episode in samples.episodes])
    device = next(model.parameters()).device
    head = AttentionHead(model.config.siglip.hidden_size, len(names), targets.shape[1]).to(device)
    encoder = [*model.vision_tower.parameters(), *model.position_embedding_3d.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": encoder, "lr": config.vision_rate},
            {"params": head.parameters(), "lr": 2 * config.vision_rate},
        ],
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: course(config, step / steps))
    stream = IndexStream(frames, config.batch_size, config.seed)
    losses: list[float] = []
    model.train()
    with log.open("w") as lines:
        for step in range(steps):
            indices = stream.batch(step)
            features = model.image_features(source.training(indices, step).to(device))
            predicted = head(features.float(), tasks[indices].to(device))
            loss = F.smooth_l1_loss(predicted, targets[indices].to(device), beta=LINEAR_FROM)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(encoder, config.clip_norm)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if len(losses) == 100:
                lines.write(f"{np.mean(losses):.5f}\n")
                lines.flush()
                losses.clear()

"""A first stage for networks without pre-trained vision: the image encoder alone learns where things are.

A vision tower with random weights learns little from action tokens: earlier tokens of a chunk predict most of the
next ones. Regressing positions straight from its features is a far stronger signal, and without the decoder each
sample costs a third. Being told which patch shows a point is stronger still: a softmax over places learns to look
there long before a regression has found out where to look.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.data.in_memory import EpisodeSamples, IndexStream
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.config import TrainConfig
from spatialvla.training.feed.datasets import MemoryData
from spatialvla.training.feed.in_memory import BatchSource
from spatialvla.training.guidance.keypoints import Keypoints
from spatialvla.training.guidance.privileged import LINEAR_FROM, PrivilegedTargets, standardised
from spatialvla.training.optimizer import course
from spatialvla.training.precision import autocast
from spatialvla.types import Batch

QUERIES = 8
LOOKING_WEIGHT = 0.5
LOG_EVERY = 100


class AttentionHead(nn.Module):
    """Reads numbers off image features: queries that depend on the task attend over the patches. Discarded later."""

    def __init__(self, width: int, tasks: int, targets: int) -> None:
        super().__init__()
        self.queries = nn.Embedding(tasks, QUERIES * width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Sequential(nn.Linear(QUERIES * width, 256), nn.GELU(), nn.Linear(256, targets))

    def forward(self, features: torch.Tensor, tasks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, width) features and (B,) task numbers -> (B, targets), and where each query looked, (B, QUERIES, N).

        The latter as logarithms of shares.
        """
        queries = self.queries(tasks).unflatten(1, (QUERIES, -1))
        looks = F.log_softmax(queries @ self.key(features).mT / features.shape[-1] ** 0.5, dim=-1)
        return self.out((looks.exp() @ self.value(features)).flatten(1)), looks


def vision_targets(samples: EpisodeSamples, config: TrainConfig) -> torch.Tensor:
    """(N, targets) float32, standardised: the privileged numbers and the actions of each frame's chunk."""
    chunks = samples.chunks(np.arange(len(samples)))
    actions = standardised(chunks[..., [0, 1, 2, 6]].reshape(len(samples), -1))
    privileged = PrivilegedTargets(samples, config.guidance.privileged).values
    return torch.from_numpy(np.concatenate([privileged, actions], axis=1))


class VisionStage:
    """The image encoder of `model`, a head of its own, and what both learn from."""

    def __init__(self, model: SpatialVLA, source: BatchSource, config: TrainConfig) -> None:
        samples = source.samples
        self.model, self.source, self.config = model, source, config
        self.device = model.device
        self.targets = vision_targets(samples, config)
        self.keypoints = Keypoints(samples, config.guidance.keypoints) if config.guidance.keypoints else None
        names = sorted(set(samples.instructions))
        self.tasks = torch.tensor(
            [names.index(samples.instructions[episode]) for episode in samples.episodes]
        )
        width = model.config.siglip.hidden_size
        self.head = AttentionHead(width, len(names), self.targets.shape[1]).to(self.device)
        self.encoder = [*model.vision_tower.parameters(), *model.position_embedding_3d.parameters()]

    def losses(self, batch: Batch, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """The loss of the regressed numbers, and of where the first queries look, in nats."""
        with autocast(self.config.precision, self.device):
            features = self.model.image_features(batch.to(self.device)).float()
        predicted, looks = self.head(features, self.tasks[indices].to(self.device))
        targets = self.targets[indices].to(self.device)
        losses = {"regression": F.smooth_l1_loss(predicted, targets, beta=LINEAR_FROM)}
        if self.keypoints is not None:
            network = self.model.config
            patches = network.image_size // network.patch_size
            shares = self.keypoints.patch_shares(
                indices, batch.intrinsics.double().numpy(), network.image_size, patches
            ).to(self.device)
            # Less the targets' own entropy, so that looking exactly there costs nothing.
            surplus = torch.special.xlogy(shares, shares) - shares * looks[:, : shares.shape[1]]
            losses["looking"] = surplus.sum(dim=-1).mean()
        return losses


def pretrain_vision(model: SpatialVLA, data: MemoryData, config: TrainConfig, log: Path) -> None:
    """Trains the vision tower and the Ego3D encoding in place for the stage's steps.

    Writes a JSON object a line to `log` every LOG_EVERY steps: the mean losses of these, and those of some
    held-out frames.
    """
    steps, source, held_out = config.guidance.vision_steps, data.source, data.held_out
    stage = VisionStage(model, source, config)
    optimizer = torch.optim.AdamW(
        [
            {"params": stage.encoder, "lr": config.guidance.vision_rate},
            {"params": stage.head.parameters(), "lr": 2 * config.guidance.vision_rate},
        ],
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: course(config, step / steps))
    stream = IndexStream(data.training, config.guidance.vision_batch_size, config.seed)
    unseen = held_out[np.linspace(0, len(held_out) - 1, min(config.eval_frames, len(held_out))).astype(int)]
    means: dict[str, float] = defaultdict(float)
    model.train()
    with log.open("w") as lines:
        for step in range(steps):
            indices = stream.batch(step)
            losses = stage.losses(source.training(indices, step), indices)
            optimizer.zero_grad(set_to_none=True)
            (losses["regression"] + LOOKING_WEIGHT * losses.get("looking", 0)).backward()
            nn.utils.clip_grad_norm_(stage.encoder, config.clip_norm)
            optimizer.step()
            schedule.step()
            for name, loss in losses.items():
                means[name] += float(loss.detach()) / LOG_EVERY
            if (step + 1) % LOG_EVERY == 0:
                row: dict[str, float] = {"step": step + 1, **means}
                if len(unseen):
                    with torch.no_grad():
                        measured = stage.losses(source.evaluation(unseen), unseen)
                    row |= {f"held_out/{name}": float(loss) for name, loss in measured.items()}
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                means.clear()

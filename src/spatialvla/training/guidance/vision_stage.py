"""A first stage for networks without pre-trained vision: the image encoder alone learns where things are.

A vision tower with random weights learns little from action tokens: earlier tokens of a chunk predict most of
the next ones. Regressing positions straight from its features is a far stronger signal, and without the
decoder each sample costs a third. Being told which patch shows a point is stronger still: a softmax over
patches learns to look there long before a regression has found out where to look.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.data.episodes import Episode, action_chunks, planned_steps
from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.model.fast.compiled import as_written
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.bad_steps import BadSteps
from spatialvla.training.checkpoints.checkpointer import Checkpointer, Moment
from spatialvla.training.checkpoints.tensors import Trained
from spatialvla.training.config import TrainConfig
from spatialvla.training.feed.rank_batches import Feed
from spatialvla.training.guidance.keypoints import Keypoints
from spatialvla.training.guidance.privileged import LINEAR_FROM, PrivilegedTargets
from spatialvla.training.guidance.step_table import Steps, standardized
from spatialvla.training.metrics import combined
from spatialvla.training.optimizer import build_optimizer, course, set_learning_rate
from spatialvla.training.parallel.sharding import clip_gradients
from spatialvla.training.precision import autocast
from spatialvla.training.run.trackers import drop_lines

QUERIES = 8
LOOKING_WEIGHT = 0.5
LOG_EVERY = 100


class AttentionHead(nn.Module):
    """Reads numbers off image features: queries that depend on the task attend over the patches.

    Discarded later.
    """

    def __init__(self, width: int, tasks: int, targets: int) -> None:
        super().__init__()
        self.queries = nn.Embedding(tasks, QUERIES * width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Sequential(nn.Linear(QUERIES * width, 256), nn.GELU(), nn.Linear(256, targets))

    def forward(
        self, features: torch.Tensor, there: torch.Tensor, tasks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, width) features of all images, (B,) task numbers -> (B, targets), and where queries looked.

        there: (B, N) bool, which images are. Looks are (B, QUERIES, N), as logarithms of shares.
        """
        queries = self.queries(tasks).unflatten(1, (QUERIES, -1))
        scores = queries @ self.key(features).mT / features.shape[-1] ** 0.5
        looks = F.log_softmax(scores.masked_fill(~there[:, None], float("-inf")), dim=-1)
        return self.out((looks.exp() @ self.value(features)).flatten(1)), looks


class VisionStage:
    """The image encoder of `model`, a head of its own, and what both learn from."""

    def __init__(self, model: SpatialVLA, mixture: TrainingMixture, config: TrainConfig) -> None:
        """Raises InputError where a dataset lacks what `Guidance` names."""
        self.model, self.config, self.device = model, config, model.device
        self.steps = Steps(mixture)
        chunk = model.config.action_chunk_size
        privileged = PrivilegedTargets(self.steps, config.guidance.privileged).values
        actions = standardized(self.steps.table(lambda episode: _motions(episode, chunk)))
        self.targets = torch.from_numpy(np.concatenate([privileged, actions], axis=1))
        keypoints = config.guidance.keypoints
        self.keypoints = Keypoints(self.steps, keypoints) if keypoints else None
        numbers: dict[str, int] = {}
        self.tasks = torch.from_numpy(
            self.steps.table(
                lambda episode: np.full(
                    len(episode.actions), numbers.setdefault(episode.instruction, len(numbers))
                )
            )
        )
        width = model.config.siglip.hidden_size
        head = AttentionHead(width, len(numbers), self.targets.shape[1]).to(self.device)
        encoder: dict[str, nn.Module] = {"tower": model.vision_tower}
        if model.config.use_vision_zoe:
            encoder["positions"] = model.position_embedding_3d
        self.trained = nn.ModuleDict({**encoder, "head": head})
        self.head = head
        self.encoder = [weight for module in encoder.values() for weight in module.parameters()]

    def losses(self, loaded: LoadedBatch) -> dict[str, torch.Tensor]:
        """The mean loss of the regressed numbers, and of where the first queries look, in nats."""
        return {name: total / count for name, (total, count) in self._sums(loaded).items()}

    def _sums(self, loaded: LoadedBatch) -> dict[str, tuple[torch.Tensor, int]]:
        """Each loss summed, and over how many numbers or looks.

        Numbers are read off the images of all cameras; keypoints are looked for in the first camera's.
        """
        rows, batch, network = self.steps.rows(loaded), loaded.batch, self.model.config
        with autocast(self.config.precision, self.device):
            features = self.model.image_features(batch.to(self.device)).float()
        features = features.unflatten(0, (len(batch), batch.views)).flatten(1, 2)
        there = batch.attention_mask[:, : features.shape[1]].to(self.device)
        predicted, looks = self.head(features, there, self.tasks[rows].to(self.device))
        targets = self.targets[rows].to(self.device)
        known = ~targets.isnan()
        regression = F.smooth_l1_loss(predicted[known], targets[known], beta=LINEAR_FROM, reduction="sum")
        sums = {"regression": (regression, int(known.sum()))}
        first = network.cameras[0]
        if self.keypoints is not None and first in loaded.cameras and there[:, 0].any():
            patches = network.image_size // network.patch_size
            intrinsics = batch.intrinsics.unflatten(0, (len(batch), batch.views))[:, 0].double().numpy()
            shares = self.keypoints.patch_shares(loaded, intrinsics, network.image_size, patches)
            shares = shares.to(self.device)
            # Less the targets' own entropy, so that looking exactly there costs nothing.
            surplus = torch.special.xlogy(shares, shares) - shares * looks[:, : shares.shape[1], : patches**2]
            looks_apart = surplus[there[:, 0]].sum(dim=-1)
            sums["looking"] = looks_apart.sum(), looks_apart.numel()
        return sums

    def run(
        self,
        feed: Feed,
        checkpointer: Checkpointer,
        moment: Moment,
        log: Path,
        progress: Callable[[int], None],
        stopped: Sequence[int],
        bad: BadSteps,
    ) -> bool:
        """Trains the vision tower and the Ego3D encoding in place; False where it was told to stop early.

        It saves what it has learned with `checkpointer`, as often as the run does and where it stops, and
        goes on from there. Writes a JSON object a line to `log` every LOG_EVERY steps: the mean losses of
        these, and those of the held-out frames. progress: told the number of steps done since it was told
        before. moment: what the checkpoints tell of the run beside the stage's own steps. bad: the run's steps
        whose loss is no number, among which the stage's count. Raises NonFiniteLoss.
        """
        guidance, config = self.config.guidance, self.config
        optimizer = build_optimizer(
            self.trained, config, lambda name: 2.0 if name.startswith("head.") else 1.0
        )
        trained = Trained(self.trained, optimizer)
        newest = checkpointer.newest()
        step = 0
        if newest is not None:
            begun = checkpointer.load(trained, newest)
            step, bad.count = begun.step, begun.skipped
        progress(step)
        log.parent.mkdir(parents=True, exist_ok=True)
        drop_lines(log, step)
        seen: dict[str, list[float]] = defaultdict(list)
        self.model.train()
        for loaded in feed.training(step, guidance.vision_batch_size):
            if step >= guidance.vision_steps:
                break
            feed.replacements.note(loaded)
            set_learning_rate(optimizer, guidance.vision_rate * course(config, step / guidance.vision_steps))
            losses = self.losses(loaded)
            optimizer.zero_grad(set_to_none=True)
            loss = losses["regression"] + LOOKING_WEIGHT * losses.get("looking", 0)
            loss.backward()
            # The head, which is discarded, learns unclipped.
            norms = (
                clip_gradients(self.encoder, config.clip_norm),
                clip_gradients(self.head.parameters(), math.inf),
            )
            if np.isfinite(norms).all():
                optimizer.step()
                for name, part in losses.items():
                    seen[name].append(float(part.detach()))
            else:
                bad.refuse(f"step {step + 1} of the vision stage", loaded, float(loss.detach()))
            step += 1
            progress(1)
            if step % LOG_EVERY == 0:
                means = {name: float(np.mean(values)) for name, values in seen.items()}
                with log.open("a") as lines:
                    with as_written():
                        held_out = self._measured(feed)
                    lines.write(json.dumps({"step": step, **means, **held_out}) + "\n")
                seen.clear()
            if stopped or step % config.save_every == 0:
                checkpointer.save(trained, replace(moment, step=step, seconds=0.0, skipped=bad.count))
            if stopped:
                return step >= guidance.vision_steps
        return True

    @torch.no_grad()
    def _measured(self, feed: Feed) -> dict[str, float]:
        """The losses of the held-out frames."""
        rows = []
        for loaded in feed.validation():
            sums = self._sums(loaded)
            rows.append({f"held_out/{name}": (float(total), count) for name, (total, count) in sums.items()})
        return combined(rows)


def _motions(episode: Episode, chunk: int) -> np.ndarray:
    """(T, 4 * chunk) the translations and grippers of the chunk from each step on; NaN behind what was planned."""
    steps = np.arange(len(episode.actions))
    chunks = action_chunks(episode.actions, steps, chunk)
    chunks[np.arange(chunk) >= planned_steps(episode, steps, chunk)[:, None]] = np.nan
    return chunks[..., [0, 1, 2, 6]].reshape(len(chunks), -1)

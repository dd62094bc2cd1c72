"""One step of the optimizer: given tokens, losses, gradients over parts and ranks, averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch

from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.training.bad_steps import BadSteps
from spatialvla.training.checkpoints.tensors import Trained
from spatialvla.training.config import TrainConfig
from spatialvla.training.feed.given_tokens import with_given_tokens
from spatialvla.training.guidance.privileged import PrivilegedHead, PrivilegedTargets
from spatialvla.training.guidance.soft_targets import SoftTokenLoss
from spatialvla.training.metrics import Tallies, combined, token_metrics
from spatialvla.training.optimizer import WeightAverage, build_optimizer, learning_rate, set_learning_rate
from spatialvla.training.parallel.sharding import clip_gradients, shard, synchronize_gradients, token_weights
from spatialvla.training.parallel.world import World
from spatialvla.training.precision import autocast, computes_bfloat16
from spatialvla.training.start.trainable import left_to_base


class Learner:
    """What learns: the model, sharded over the ranks, an auxiliary head, their optimizer, averaged weights.

    trained: all tensors that change. bad: the steps whose loss was no number.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: SpatialVLA,
        processor: Processor,
        keys: tuple[str, ...],
        targets: PrivilegedTargets | None,
        world: World,
        say: Callable[[str], None],
        multiple: int = 1,
    ) -> None:
        """keys: of all datasets. targets: what the auxiliary head regresses. say: told of skipped batches.

        multiple: the tokens of each batch's rows are filled up to one of so many.
        """
        self.multiple = multiple
        self.config, self.model, self.processor, self.world = config, model, processor, world
        self.keys, self.targets = keys, targets
        self.bad = BadSteps(config.skip_bad_batches, world, say)
        modules: dict[str, torch.nn.Module] = {"model": model}
        self.head: PrivilegedHead | None = None
        if targets is not None:
            self.head = PrivilegedHead(model.config.text.hidden_size, targets.size)
            modules["privileged"] = self.head
        for module in modules.values():
            shard(
                module, world, torch.bfloat16 if computes_bfloat16(config.precision, world.device) else None
            )
        trained = torch.nn.ModuleDict(modules)
        self.soft_loss: SoftTokenLoss | None = None
        if config.guidance.soft_targets > 0:
            first = model.config.action_token_begin_idx
            self.soft_loss = SoftTokenLoss(processor.grid, first, config.guidance.soft_targets)
            self.soft_loss.to(world.device)
        average = WeightAverage(trained, config.ema_decay) if config.ema_decay > 0 else None
        left = left_to_base(model, config.mode, other_depth=config.depth_weights is not None)
        of_base = frozenset(f"model.{name}" for name in left)
        self.trained = Trained(trained, build_optimizer(trained, config), average, of_base)

    def update(self, loaded: LoadedBatch, step: int, fraction: float, measured: bool) -> dict[str, float]:
        """One step of the optimizer, or none where the loss is no number and such batches are skipped.

        step: steps done before. fraction: of the run that is done. measured: whether the numbers it gives are
        all there are, over all ranks, or this rank's loss alone. Raises NonFiniteLoss.
        """
        config, optimizer = self.config, self.trained.optimizer
        rate = learning_rate(config, fraction)
        set_learning_rate(optimizer, rate)
        rng = np.random.default_rng([config.seed, 2, step])
        batch = with_given_tokens(loaded.batch, config, self.processor, rng, self.world)
        parts = replace(loaded, batch=batch).split(config.parts(self.world.size))
        weights = token_weights([part.label_count for part in parts], self.world)
        rows = []
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            synchronize_gradients(self.trained.model, number == len(parts) - 1)
            rows.append(self._backward(part, weight, len(part) / len(loaded), measured))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = clip_gradients(parameters, config.clip_norm)
        if np.isfinite(norm):
            optimizer.step()
            if self.trained.average is not None:
                self.trained.average.update(step + 1)
        else:
            self.bad.refuse(f"step {step + 1}", loaded, combined(rows, self.world)["loss"])
        optimizer.zero_grad(set_to_none=True)
        numbers = combined(rows, self.world) if measured else combined(rows)
        return numbers | {"learning_rate": rate, "grad_norm": norm}

    def autocast(self) -> AbstractContextManager[object]:
        """The context to compute in. Among several processes FSDP gathers the weights in bf16 instead."""
        return autocast(self.config.precision, self.world.device) if self.world.size == 1 else nullcontext()

    def averaged(self) -> AbstractContextManager[None]:
        """The model has the averaged weights inside this block, where there are such."""
        average = self.trained.average
        return nullcontext() if average is None else average.applied()

    def _backward(self, part: LoadedBatch, weight: float, share: float, measured: bool) -> Tallies:
        """Adds the gradients of some rows of the batch.

        weight: of their loss, a mean over labels. share: of this rank's samples, the weight of a mean over samples.
        """
        config = self.config
        batch = part.batch.filled(self.multiple, self.model.config.pad_token_id)
        with self.autocast():
            output = self.model.training_loss(batch.to(self.world.device, non_blocking=True), config.mask)
        loss = output.loss if self.soft_loss is None else self.soft_loss(output.logits, output.labels)
        loss = loss * weight
        count = part.label_count
        numbers: dict[str, tuple[float, float]] = {"loss": (float(output.loss.detach()) * count, count)}
        if self.head is not None and self.targets is not None:
            wanted = self.targets.batch(part).to(self.world.device)
            auxiliary = self.head.loss(output.prompt_hidden, wanted)
            numbers["privileged_loss"] = (float(auxiliary.detach()) * len(part), len(part))
            loss = loss + config.guidance.privileged_weight * share * auxiliary
        loss.backward()
        if measured:
            numbers |= token_metrics(output, part, self.processor, self.model.config, self.keys)
        return numbers

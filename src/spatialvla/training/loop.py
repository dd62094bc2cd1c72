"""The training loop: data, step, measure, keep."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from spatialvla.common.cpu import tune_cpu
from spatialvla.common.json_files import write_json
from spatialvla.data.loader import LoadedBatch
from spatialvla.errors import InputError
from spatialvla.model.fast.compiled import compile_layers
from spatialvla.training.checkpoints.checkpointer import FOLDER, Checkpointer, Moment, Trained
from spatialvla.training.checkpoints.export import export, save_layout
from spatialvla.training.config import TrainConfig
from spatialvla.training.feed.committed import with_committed_steps
from spatialvla.training.feed.datasets import MemoryData, open_data
from spatialvla.training.guidance.privileged import PrivilegedHead
from spatialvla.training.guidance.soft_targets import SoftTokenLoss
from spatialvla.training.guidance.vision_stage import pretrain_vision
from spatialvla.training.metrics import Tallies, combined, token_metrics, validate
from spatialvla.training.optimizer import (
    WeightAverage,
    build_optimizer,
    learning_rate,
    run_fraction,
    set_learning_rate,
)
from spatialvla.training.parallel.sharding import clip_gradients, shard, synchronise_gradients, token_weights
from spatialvla.training.parallel.world import World, join_world
from spatialvla.training.precision import autocast, computes_bfloat16
from spatialvla.training.run.progress import Progress
from spatialvla.training.run.stopping import stop_requests
from spatialvla.training.run.trackers import RunLog
from spatialvla.training.start.build import build, network_config
from spatialvla.training.start.trainable import select_trainable

Rollout = Callable[[Path, Path], Mapping[str, float]]
"""(folder of a policy, folder to write into) -> numbers: a closed-loop evaluation."""


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; names the samples of the step."""


@dataclass(frozen=True)
class RunResult:
    """finished: False when the run was told to stop early; it can be resumed.

    model: folder of the exported policy, None until finished. validation: the last numbers measured.
    """

    finished: bool
    step: int
    model: Path | None
    validation: dict[str, float]


def train(
    config: TrainConfig,
    resume: bool = False,
    device: str | None = None,
    console: Console | None = None,
    rollout: Rollout | None = None,
) -> RunResult:
    """Run, or go on with, one training; the exported model is in `config.out`/model.

    Under torchrun each process calls this with the same configuration. device: "cuda" where there is one unless
    given. console: where progress is shown; None shows none. rollout: called every `rollout_every` steps.
    SIGTERM and SIGINT save a checkpoint and return. Raises InputError without a dataset and when the output holds
    another run, NonFiniteLoss when the loss is no longer a number.
    """
    if not config.datasets:
        raise InputError("There is nothing to train on; name a dataset or a mixture.")
    tune_cpu()
    with join_world(device) as world:
        trainer = Trainer(config, world, Progress(config, console if world.is_main else None), rollout)
        trainer.restore(resume)
        with stop_requests() as stopped:
            return trainer.run(stopped)


class Trainer:
    """Everything one run holds, as one rank sees it."""

    def __init__(
        self, config: TrainConfig, world: World, progress: Progress, rollout: Rollout | None = None
    ) -> None:
        parts = world.size * config.accumulation
        if config.batch_size % parts:
            raise InputError(
                f"A batch of {config.batch_size} cannot be split into {parts} equal parts (processes times "
                "accumulation); choose a multiple."
            )
        torch.manual_seed(config.seed)
        self.config, self.world, self.progress, self.rollout = config, world, progress, rollout
        self.data = open_data(config, network_config(config), world)
        self.model, self.processor = build(config, self.data)
        self.network = self.model.config
        self.checkpointer = Checkpointer(config.out / FOLDER, config.keep, world, config.seed)
        select_trainable(self.model, config.mode, text_embeddings=not config.freeze_text_embeddings)
        self.model.to(world.device).train()
        self.model.checkpoint_activations(config.activation_checkpointing)
        if config.compile:
            compile_layers(self.model)
        self.data.begin(self.model, self.processor, progress)
        if config.guidance.vision_steps > 0 and self.checkpointer.newest() is None:
            self._pretrain_vision()

        modules: dict[str, torch.nn.Module] = {"model": self.model}
        self.head: PrivilegedHead | None = None
        if self.data.target_size:
            self.head = PrivilegedHead(self.network.text.hidden_size, self.data.target_size)
            modules["privileged"] = self.head
        for module in modules.values():
            shard(
                module, world, torch.bfloat16 if computes_bfloat16(config.precision, world.device) else None
            )
        trained = torch.nn.ModuleDict(modules)
        self.soft_loss: SoftTokenLoss | None = None
        if config.guidance.soft_targets > 0:
            first = self.network.action_token_begin_idx
            self.soft_loss = SoftTokenLoss(self.processor.grid, first, config.guidance.soft_targets)
            self.soft_loss.to(world.device)
        self.optimizer = build_optimizer(trained, config)
        self.average = WeightAverage(trained, config.ema_decay) if config.ema_decay > 0 else None
        self.trained = Trained(trained, self.optimizer, self.average)
        self.step, self.seconds, self.skipped = 0, 0.0, 0

    def _pretrain_vision(self) -> None:
        if not isinstance(self.data, MemoryData) or self.world.size > 1:
            raise InputError(
                "The vision stage runs in one process; train that stage first, then go on from it."
            )
        self.config.out.mkdir(parents=True, exist_ok=True)
        pretrain_vision(self.model, self.data, self.config, self.config.out / "vision.jsonl")

    def run(self, stopped: list[int]) -> RunResult:
        """Steps until the run is over or `stopped` is no longer empty on some rank."""
        config, world = self.config, self.world
        world.on_main(self._describe)
        if self.step == 0 and config.guidance.vision_steps > 0:
            self.save()  # that stage takes longer than many a run
        validation: dict[str, float] = {}
        with self.progress, self._log() as log:
            began = time.monotonic() - self.seconds
            asked = time.monotonic()
            for loaded in self.data.batches(self.step):
                waited = time.monotonic() - asked
                logged = (self.step + 1) % config.log_every == 0
                numbers = self._update(loaded, logged)
                took = time.monotonic() - asked
                # Each rank has a clock of its own, and all must see the same end.
                self.seconds = time.monotonic() - began
                if config.minutes is not None:
                    self.seconds = world.from_main(self.seconds)
                if logged:
                    speed = {
                        "samples_per_s": config.batch_size / took,
                        "data_wait_s": waited,
                        "memory_gb": self._memory(),
                        "seconds": self.seconds,
                        "skipped": self.skipped,
                    }
                    log("train", numbers | speed)
                self.progress.update(self.step, self.fraction, numbers)
                over = self.fraction >= 1
                if self.step % config.eval_every == 0 or over:
                    validation = self.evaluate() or validation
                    if validation:
                        log("validation", validation)
                        self.progress.report(self.step, validation)
                stop = world.any(bool(stopped))
                rolls = self.rollout is not None and self.step % config.rollout_every == 0
                if over or stop or rolls or self.step % config.save_every == 0:
                    self.save()
                if rolls:
                    log("rollout", self._roll_out())
                if over or stop:
                    break
                asked = time.monotonic()
        finished = self.fraction >= 1
        model = config.out / "model" if finished else None
        if model is not None:
            world.on_main(lambda: export(config.out, model))
        return RunResult(finished, self.step, model, validation)

    def _describe(self) -> None:
        """Beside the checkpoints: the resolved configuration, and what an export needs."""
        write_json(self.config.out / "config.json", self.config.to_json())
        save_layout(self.model, self.processor, self.config.out)

    @property
    def fraction(self) -> float:
        """How much of the run is done, in [0, 1]."""
        return run_fraction(self.step, self.seconds, self.config.steps, self.config.minutes)

    def _update(self, loaded: LoadedBatch, measured: bool) -> dict[str, float]:
        """One step of the optimizer, or none where the loss is no number and such batches are skipped."""
        config = self.config
        rate = learning_rate(config, self.fraction)
        set_learning_rate(self.optimizer, rate)
        rng = np.random.default_rng([config.seed, 2, self.step, self.world.rank])
        batch = with_committed_steps(loaded.batch, config, self.processor, rng)
        parts = replace(loaded, batch=batch).split(config.accumulation)
        weights = token_weights([part.label_count for part in parts], self.world)
        rows = []
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            synchronise_gradients(self.trained.model, number == len(parts) - 1)
            rows.append(self._backward(part, weight, measured))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = clip_gradients(parameters, config.clip_norm)
        self.step += 1
        if np.isfinite(norm):
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.step)
        else:
            self._refuse(loaded, rows)
        self.optimizer.zero_grad(set_to_none=True)
        numbers = combined(rows, self.world) if measured else combined(rows)
        return numbers | {"learning_rate": rate, "grad_norm": norm}

    def _backward(self, part: LoadedBatch, weight: float, measured: bool) -> Tallies:
        """Adds the gradients of some rows of the batch."""
        config = self.config
        with self._autocast():
            output = self.model.training_loss(
                part.batch.to(self.world.device, non_blocking=True), config.mask
            )
        loss = output.loss if self.soft_loss is None else self.soft_loss(output.logits, output.labels)
        count = part.label_count
        numbers: dict[str, tuple[float, float]] = {"loss": (float(output.loss.detach()) * count, count)}
        if self.head is not None and part.targets is not None:
            auxiliary = self.head.loss(output.prompt_hidden, part.targets.to(self.world.device))
            numbers["privileged_loss"] = (float(auxiliary.detach()) * count, count)
            loss = loss + config.guidance.privileged_weight * auxiliary
        (loss * weight).backward()
        if measured:
            numbers |= token_metrics(output, part, self.processor, self.network, self.data.keys)
        return numbers

    def _refuse(self, loaded: LoadedBatch, rows: list[Tallies]) -> None:
        """All ranks come here together: the gradients' norm is the same on all."""
        self.skipped += 1
        names = [name for rank in self.world.gather(loaded.names) for name in rank]
        loss = combined(rows, self.world)["loss"]
        message = (
            f"The loss of step {self.step} is {loss} and its gradients are not finite; its samples are "
            f"{', '.join(names)}."
        )
        if not self.config.skip_bad_batches:
            raise NonFiniteLoss(
                f"{message} The last checkpoint is from before; lower the learning rate, look at these frames, or "
                "skip such batches."
            )
        self.progress.say(f"Skipped. {message}")

    def evaluate(self) -> dict[str, float]:
        """Validation, of the averaged weights where there are such; nothing without held-out samples."""
        with self._averaged():
            rows = validate(
                self.model,
                self.data.validation(),
                self.processor,
                self.data.keys,
                self.config.mask,
                self._autocast,
            )
        return combined(rows, self.world)

    def _roll_out(self) -> Mapping[str, float]:
        folder = self.config.out / "rollouts" / f"step_{self.step:08d}"

        def play() -> Mapping[str, float]:
            assert self.rollout is not None
            export(self.config.out, folder / "model")
            return self.rollout(folder / "model", folder)

        return self.world.on_main(play)

    def save(self) -> None:
        """Write a checkpoint."""
        documents = {"config": self.config.to_json(), "processor": self.processor.to_json()}
        self.checkpointer.save(
            self.trained,
            Moment(self.step, self.seconds, self._identity(), self.skipped, documents),
        )

    def restore(self, resume: bool) -> None:
        """Go on from the newest checkpoint if there is one and `resume` says so."""
        path = self.checkpointer.newest()
        if path is None:
            return
        if not resume:
            raise InputError(f"{self.config.out} already holds a run; resume it or choose another output.")
        identity = self.checkpointer.moment(path).identity
        changed = [k for k, v in self._identity().items() if identity.get(k) != v]
        if changed:
            raise InputError(
                f"{self.config.out} cannot be resumed with another {', '.join(changed)}; start a new run."
            )
        moment = self.checkpointer.load(self.trained, path)
        self.step, self.seconds, self.skipped = moment.step, moment.seconds, moment.skipped

    def _identity(self) -> dict[str, Any]:
        config = self.config
        return {
            "preset": config.preset,
            "policy": config.policy,
            "mode": config.mode,
            "datasets": self.data.fingerprint,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "held_out": config.held_out,
            "ema_decay": config.ema_decay,
        }

    @contextmanager
    def _log(self) -> Iterator[Callable[[str, Mapping[str, float]], None]]:
        """Writes the run's numbers on rank 0, and nothing elsewhere."""
        if not self.world.is_main:
            yield lambda kind, numbers: None
            return
        with RunLog(self.config.out, self.step, self.config.trackers, self.config.to_json()) as log:
            yield lambda kind, numbers: log.write(self.step, kind, numbers)

    def _memory(self) -> float:
        """The most this rank's device, or its process on the CPU, has held so far, in GB."""
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device) / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    def _autocast(self) -> AbstractContextManager[object]:
        # Among several processes FSDP gathers the weights in bf16 instead.
        return autocast(self.config.precision, self.world.device) if self.world.size == 1 else nullcontext()

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.applied()

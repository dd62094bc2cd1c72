"""The training loop: data, step, measure, keep."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console

from spatialvla.data.samples import EpisodeSamples, IndexStream
from spatialvla.errors import InputError
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.batches import BatchSource, depth_estimates
from spatialvla.training.build import build_model, build_processor
from spatialvla.training.checkpoints import Checkpoint, CheckpointFolder, pack, unpack
from spatialvla.training.config import TrainConfig
from spatialvla.training.cpu import tune_cpu
from spatialvla.training.metrics import RunLog, token_accuracy, validate
from spatialvla.training.objective import SoftTokenLoss
from spatialvla.training.optimizer import (
    WeightAverage,
    build_optimizer,
    freeze,
    learning_rate,
    run_fraction,
    set_learning_rate,
)
from spatialvla.training.privileged import PrivilegedHead, PrivilegedTargets
from spatialvla.training.progress import Progress
from spatialvla.training.vision import pretrain_vision
from spatialvla.types import Batch


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
    config: TrainConfig, resume: bool = False, device: str | None = None, console: Console | None = None
) -> RunResult:
    """Run, or go on with, one training; the exported model is in `config.output`/model.

    device: "cuda" where there is one unless given. console: where progress is shown; None shows none.
    SIGTERM and SIGINT save a checkpoint and return. Raises InputError when the output holds another run,
    NonFiniteLoss when the loss is no longer a number.
    """
    tune_cpu()
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    trainer = Trainer(config, place, Progress(config, console))
    trainer.restore(resume)
    with stop_requests() as stopped:
        return trainer.run(stopped)


class Trainer:
    """Everything one run holds."""

    def __init__(self, config: TrainConfig, device: torch.device, progress: Progress) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.progress = progress
        self.model: SpatialVLA = build_model(config)
        network = self.model.config
        self.samples = EpisodeSamples.open(
            config.dataset, network.action_chunk_size, network.image_size, config.camera, config.cache
        )
        self.processor = build_processor(config, self.model, self.samples)
        self.model.to(device).train()
        estimates = None
        if config.depth == "estimate" or config.depth_mix > 0:
            with progress.counting("depth of every frame", len(self.samples)) as count:
                estimates = depth_estimates(self.model, self.samples, config, count)
        self.source = BatchSource(self.samples, self.processor, config, estimates)
        self.training, self.held_out = self.samples.split(config.held_out, config.seed)
        self.stream = IndexStream(self.training, config.batch_size, config.seed)

        freeze(self.model, config)
        modules: dict[str, torch.nn.Module] = {"model": self.model}
        self.targets: PrivilegedTargets | None = None
        if config.privileged_weight > 0:
            self.targets = PrivilegedTargets(self.samples, config.privileged)
            self.head = PrivilegedHead(network.text.hidden_size, self.targets.size).to(device)
            modules["privileged"] = self.head
        self.trained = torch.nn.ModuleDict(modules)
        self.soft_loss: SoftTokenLoss | None = None
        if config.soft_targets > 0:
            first = network.action_token_begin_idx
            self.soft_loss = SoftTokenLoss(self.processor.grid, first, config.soft_targets).to(device)
        self.optimizer = build_optimizer(self.trained, config)
        self.average = WeightAverage(self.trained, config.ema_decay) if config.ema_decay > 0 else None
        self.autocast_dtype = config.autocast_dtype(device)
        self.checkpoints = CheckpointFolder(config.output / "checkpoints", config.keep)
        self.step = 0
        self.seconds = 0.0

    def run(self, stopped: list[int]) -> RunResult:
        """Steps until the run is over or `stopped` is no longer empty."""
        config = self.config
        log = RunLog(config.output, self.step)
        if config.vision_steps > 0 and self.checkpoints.newest() is None:
            pretrain_vision(
                self.model,
                self.source,
                self.training,
                self.held_out,
                config,
                config.vision_steps,
                config.output / "vision.jsonl",
            )
            if self.average is not None:
                self.average = WeightAverage(self.trained, config.ema_decay)
            self.save()
        (config.output / "config.json").write_text(json.dumps(config.to_json(), indent=2))
        validation: dict[str, float] = {}
        with self.progress, log, self._batches() as batches:
            done_before, start = self.seconds, time.monotonic()
            asked = start
            for indices, batch in batches:
                waited = time.monotonic() - asked
                logged = (self.step + 1) % config.log_every == 0
                numbers = self._update(indices, batch.to(self.device, non_blocking=True), logged)
                took = time.monotonic() - asked
                self.seconds = done_before + time.monotonic() - start
                if logged:
                    numbers |= {"samples_per_s": len(indices) / took, "data_wait_s": waited}
                    log.write(self.step, "train", numbers | {"seconds": self.seconds})
                self.progress.update(self.step, self.fraction, numbers)
                over = self.fraction >= 1 or bool(stopped)
                if len(self.held_out) and (self.step % config.eval_every == 0 or self.fraction >= 1):
                    validation = self.evaluate()
                    log.write(self.step, "validation", validation)
                    self.progress.report(self.step, validation)
                if over or self.step % config.save_every == 0:
                    self.save()
                if over:
                    break
                asked = time.monotonic()
        finished = self.fraction >= 1
        return RunResult(finished, self.step, self.export() if finished else None, validation)

    @property
    def fraction(self) -> float:
        """How much of the run is done, in [0, 1]."""
        return run_fraction(self.step, self.seconds, self.config.steps, self.config.minutes)

    def _update(self, indices: np.ndarray, batch: Batch, measured: bool) -> dict[str, float]:
        config = self.config
        rate = learning_rate(config, self.fraction)
        set_learning_rate(self.optimizer, rate)
        with self._autocast():
            output = self.model.training_loss(batch, mask=config.mask)
        loss = output.loss if self.soft_loss is None else self.soft_loss(output.logits, output.labels)
        numbers = {"loss": float(output.loss.detach()), "learning_rate": rate}
        if self.targets is not None:
            auxiliary = self.head.loss(output.prompt_hidden, self.targets.batch(indices).to(self.device))
            numbers["privileged_loss"] = float(auxiliary.detach())
            loss = loss + config.privileged_weight * auxiliary
        if not np.isfinite(list(numbers.values())).all():
            raise NonFiniteLoss(
                f"The loss of step {self.step + 1} is {numbers['loss']}; its samples are "
                f"{self._names(indices)}. The last checkpoint is from before; lower the learning rate or "
                "look at these frames."
            )
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        if measured:
            numbers["grad_norm"] = float(norm)
            numbers |= token_accuracy(output.logits.detach(), output.labels, self.model.config.grammar)
        return numbers

    def evaluate(self) -> dict[str, float]:
        """Validation, of the averaged weights where there are such, on some of the held-out frames."""
        count = min(self.config.eval_frames, len(self.held_out))
        chosen = self.held_out[np.linspace(0, len(self.held_out) - 1, count).round().astype(int)]
        with self._averaged(), self._autocast():
            return validate(self.model, self.source, chosen)

    def export(self) -> Path:
        """Write model and processor as one folder for `Policy.from_pretrained`."""
        folder = self.config.output / "model"
        with self._averaged():
            self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        return folder

    def save(self) -> None:
        """Write a checkpoint."""
        tensors = pack(self.trained, self.optimizer, self.average, self.device)
        self.checkpoints.save(Checkpoint(self.step, self.seconds, tensors, self._identity()))

    def restore(self, resume: bool) -> None:
        """Go on from the newest checkpoint if there is one and `resume` says so."""
        checkpoint = self.checkpoints.newest()
        if checkpoint is None:
            return
        if not resume:
            raise InputError(f"{self.config.output} already holds a run; resume it or choose another output.")
        changed = [k for k, v in self._identity().items() if checkpoint.identity.get(k) != v]
        if changed:
            raise InputError(
                f"{self.config.output} cannot be resumed with another {', '.join(changed)}; start a new run."
            )
        unpack(checkpoint.tensors, self.trained, self.optimizer, self.average, self.device)
        self.step, self.seconds = checkpoint.step, checkpoint.seconds

    def _identity(self) -> dict[str, Any]:
        config = self.config
        return {
            "preset": config.preset,
            "dataset": self.samples.fingerprint,
            "batch_size": config.batch_size,
            "seed": config.seed,
            "held_out": config.held_out,
            "ema_decay": config.ema_decay,
        }

    @contextmanager
    def _batches(self) -> Iterator[Iterator[tuple[np.ndarray, Batch]]]:
        """The batches from this step on. Beside a GPU the next is made meanwhile; a CPU is busy anyway."""

        def make(step: int) -> tuple[np.ndarray, Batch]:
            indices = self.stream.batch(step)
            return indices, self.source.training(indices, step)

        def on_time() -> Iterator[tuple[np.ndarray, Batch]]:
            while True:
                yield make(self.step)

        def ahead(pool: ThreadPoolExecutor) -> Iterator[tuple[np.ndarray, Batch]]:
            upcoming = pool.submit(make, self.step)
            while True:
                ready = upcoming.result()
                upcoming = pool.submit(make, self.step + 1)
                yield ready

        if self.device.type == "cpu":
            yield on_time()
            return
        with ThreadPoolExecutor(1) as pool:
            yield ahead(pool)

    def _autocast(self) -> Any:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def _averaged(self) -> Any:
        return nullcontext() if self.average is None else self.average.applied()

    def _names(self, indices: np.ndarray) -> str:
        episodes = self.samples.episodes[indices]
        frames = indices - self.samples.starts[episodes]
        return ", ".join(f"episode {e} frame {f}" for e, f in zip(episodes, frames, strict=True))


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """A list that fills with the signals asking the process to stop, while inside this block."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

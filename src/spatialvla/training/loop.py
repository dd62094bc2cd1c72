"""The training loop: data, step, measure, keep."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from spatialvla.common.claims import claimed
from spatialvla.common.cpu import tune_cpu
from spatialvla.common.json_files import write_json
from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.errors import InputError
from spatialvla.model.fast.compiled import PROMPT_MULTIPLE, as_written
from spatialvla.model.folders import MODEL
from spatialvla.model.lora import load_peft
from spatialvla.training.banner import banner
from spatialvla.training.checkpoints.checkpointer import FOLDER, Checkpointer, Moment, complete
from spatialvla.training.checkpoints.export import StartingPoint, export, save_layout
from spatialvla.training.checkpoints.identity import (
    check_identity,
    datasets_identity,
    settings_identity,
)
from spatialvla.training.config import TrainConfig
from spatialvla.training.config_file import KEPT
from spatialvla.training.feed.datasets import mixture_of, open_datasets
from spatialvla.training.feed.given_tokens import check_committed_steps
from spatialvla.training.feed.rank_batches import Feed
from spatialvla.training.guidance.named_features import check_guidance
from spatialvla.training.guidance.privileged import PrivilegedTargets
from spatialvla.training.guidance.step_table import Steps
from spatialvla.training.guidance.vision_stage import VisionStage
from spatialvla.training.metrics import combined, validate
from spatialvla.training.optimizer import run_fraction, total_steps
from spatialvla.training.parallel.world import World, join_world
from spatialvla.training.precision import computes_bfloat16
from spatialvla.training.run.lasting_names import with_lasting_names
from spatialvla.training.run.progress import Progress
from spatialvla.training.run.stopping import StopRequested, stop_requests, stopping_at_once
from spatialvla.training.run.trackers import RunLog, check_trackers
from spatialvla.training.start.build import build, check_start, network_config
from spatialvla.training.start.doubts import doubts
from spatialvla.training.start.scales import misfits
from spatialvla.training.start.speed import compiles, speed_up
from spatialvla.training.start.trainable import narrow_frozen, select_trainable
from spatialvla.training.step import Learner

STAGE_FOLDER = "vision_stage"
"""Where a run keeps the checkpoints of its vision stage until that is over, inside its own folder."""

SPEED = "speed"
"""The document of a checkpoint that says what the run decided of its speed."""

Rollout = Callable[[Path, Path], Mapping[str, float]]
"""(folder of a policy, folder to write into) -> numbers: a closed-loop evaluation."""


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

    Under torchrun each process calls this with the same configuration. device: "cuda" where there is one
    unless given. console: where progress is shown; None shows none. rollout: called every `rollout_every`
    steps. SIGTERM and SIGINT save a checkpoint and return; while the run is being prepared they return at once.
    Raises InputError without a dataset, for what is not installed, and when the output holds another run or is
    being written by one, NonFiniteLoss when the loss is no longer a number.
    """
    if not config.datasets:
        raise InputError("There is nothing to train on; name a dataset or a mixture.")
    with stop_requests() as stopped:
        try:
            with ExitStack() as held:
                with stopping_at_once():
                    trainer = _prepared(config, resume, device, console, rollout, held)
                return trainer.run(stopped)
        except StopRequested:
            return RunResult(False, _saved_step(config.out), None, {})


def _prepared(
    config: TrainConfig,
    resume: bool,
    device: str | None,
    console: Console | None,
    rollout: Rollout | None,
    held: ExitStack,
) -> Trainer:
    """What is ready for its next step. held: the process group, and the claim on the output."""
    check_trackers(config.trackers)
    if config.mode == "lora":
        load_peft()
    tune_cpu()
    world = held.enter_context(join_world(device))
    world.on_main(lambda: held.enter_context(claimed(config.out / FOLDER, "training run")))
    trainer = Trainer(config, world, Progress(config, console if world.is_main else None), rollout, resume)
    trainer.restore()
    return trainer


def _saved_step(out: Path) -> int:
    """The step of a run's newest checkpoint, 0 without any."""
    return max((int(path.name.removeprefix("step_")) for path in complete(out / FOLDER)), default=0)


class Trainer:
    """Everything one run holds, as one rank sees it."""

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        progress: Progress,
        rollout: Rollout | None = None,
        resume: bool = False,
    ) -> None:
        """Raises InputError where there is another run in `config.out`, or any and `resume` is False."""
        config = with_lasting_names(config)
        config.parts(world.size)
        torch.manual_seed(config.seed)
        self.world, self.progress, self.rollout = world, progress, rollout
        self.checkpointer = Checkpointer(config.out / FOLDER, config.keep, world, config.seed)
        self.identity = world.on_main(lambda: settings_identity(config))
        begun = self._begun(config.out, resume)
        identity = None if begun is None else begun.identity
        check_identity(config.out, identity, self.identity)
        network = network_config(config)
        check_committed_steps(config.committed_steps, network.action_chunk_size)
        check_start(config, network)
        if network.quantization is not None and world.size > 1:
            raise InputError(
                "Adapters on weights in 4 bits are trained in one process; start it without torchrun, or from the "
                "checkpoint in full precision."
            )
        sources = open_datasets(config, network)
        check_guidance(sources, config.guidance)
        self.mixture = mixture_of(sources, config, network, world, progress)
        self.model, self.processor = build(config, self.mixture)
        self.mixture = self.mixture.checked(self.processor.check_instruction, config.on_bad)
        self.identity |= datasets_identity(config, self.mixture)
        check_identity(config.out, identity, self.identity)
        self.config = config
        self.steps = total_steps(config, len(self.mixture.training))
        for sentence in (*self.mixture.left_out, *misfits(self.mixture), *doubts(self.mixture)):
            progress.say(escape(sentence))
        select_trainable(
            self.model,
            config.mode,
            text_embeddings=not config.freeze_text_embeddings,
            vision_tower=not config.freeze_vision_tower,
        )
        if config.mode == "lora" and world.size == 1 and computes_bfloat16(config.precision, world.device):
            narrow_frozen(self.model)
        self.model.to(world.device).train()
        self.model.checkpoint_activations(config.activation_checkpointing)
        decided = None if begun is None else begun.documents.get(SPEED, {}).get("compiled")
        self.compiled = compiles(config, world.device, self.steps, decided)
        speed_up(self.model, config.precision, self.compiled)
        if self.compiled:
            progress.say("The first steps compile the layers, a minute or two; the others are faster for it.")
        self.feed = Feed(config, self.mixture, self.model, self.processor, world, progress)
        targets: PrivilegedTargets | None = None
        if config.guidance.privileged_weight > 0:
            targets = PrivilegedTargets(Steps(self.mixture), config.guidance.privileged)
        self.learner = Learner(
            config,
            self.model,
            self.processor,
            self.mixture.keys,
            targets,
            world,
            progress.say,
            PROMPT_MULTIPLE if self.compiled else 1,
        )
        self.step, self.seconds, self.restored = 0, 0.0, False

    def run(self, stopped: list[int]) -> RunResult:
        """Steps until the run is over or `stopped` is no longer empty on some rank."""
        config, world = self.config, self.world
        world.on_main(self._describe)
        if world.is_main:
            self.progress.show(banner(config, self.mixture, self.model, world, self.steps, self.step))
        if not self.pretrain_vision(stopped):
            return RunResult(False, 0, None, {})
        validation: dict[str, float] = {}
        if self.fraction >= 1:
            self.progress.say("The run has ended already; more steps, epochs or minutes let it go further.")
        with self.progress, self._log() as log:
            began = time.monotonic() - self.seconds
            asked = time.monotonic()
            for loaded in self._remaining():
                waited = time.monotonic() - asked
                self.feed.replacements.note(loaded)
                logged = (self.step + 1) % config.log_every == 0
                numbers = self.learner.update(loaded, self.step, self.fraction, logged)
                self.step += 1
                took = time.monotonic() - asked
                # Each rank has a clock of its own, and all must see the same end.
                self.seconds = time.monotonic() - began
                if config.minutes is not None:
                    self.seconds = world.from_main(self.seconds)
                if logged:
                    speed = {
                        "samples_per_s": config.batch_size / took,
                        "data_wait_s": waited,
                        "memory_gb": world.memory_gb,
                        "seconds": self.seconds,
                        "skipped": self.learner.bad.count,
                        "replaced": round(world.sum([self.feed.replacements.since_last()])[0]),
                    }
                    log("train", numbers | speed)
                self.progress.update(self.step, self.fraction, numbers)
                over = self.fraction >= 1
                stop = world.any(bool(stopped))
                # Who asks a run to stop may not wait for more than a checkpoint.
                if over or (self.step % config.eval_every == 0 and not stop):
                    validation = self.evaluate() or validation
                    if validation:
                        log("validation", validation)
                        self.progress.report(self.step, validation)
                    stop = world.any(bool(stopped))
                rolls = self.rollout is not None and self.step % config.rollout_every == 0
                rolls = rolls and (over or not stop)
                if over or stop or rolls or self.step % config.save_every == 0:
                    self.save()
                if rolls:
                    log("rollout", self._roll_out())
                if over or stop:
                    break
                asked = time.monotonic()
        (replaced,) = world.sum([self.feed.replacements.count])
        if replaced:
            self.progress.say(f"{replaced:.0f} damaged samples were replaced by others of their datasets.")
        finished = self.fraction >= 1
        model = config.out / MODEL if finished else None
        if model is not None:
            world.on_main(lambda: export(config.out, model))
        return RunResult(finished, self.step, model, validation)

    def _remaining(self) -> Iterable[LoadedBatch]:
        """The batches that are left: none where a run is resumed that had come to its end."""
        return () if self.fraction >= 1 else self.feed.training(self.step)

    def _describe(self) -> None:
        """Beside the checkpoints: the resolved configuration, and what an export needs."""
        config, start = self.config, None
        if config.mode == "adapt" and config.policy is not None:
            start = StartingPoint.of(config.policy, config.base)
        # First, as it may refuse, and then the run stays as it was.
        save_layout(self.model, self.processor, config.out, start)
        write_json(config.out / KEPT, config.to_json())

    @property
    def fraction(self) -> float:
        """How much of the run is done, in [0, 1]."""
        return run_fraction(self.step, self.seconds, self.steps, self.config.minutes)

    def pretrain_vision(self, stopped: list[int]) -> bool:
        """The stage before the first step, unless it is behind the run; False where it was told to stop."""
        config = self.config
        if self.restored or config.guidance.vision_steps == 0:
            return True
        if self.world.size > 1:
            raise InputError(
                "The vision stage runs in one process; train that stage first, then go on from it."
            )
        folder = config.out / STAGE_FOLDER
        stage = VisionStage(self.model, self.mixture, config)
        checkpointer = Checkpointer(folder, 1, self.world, config.seed)
        with self.progress.counting("vision stage", config.guidance.vision_steps) as told:
            log = config.out / "vision.jsonl"
            finished = stage.run(self.feed, checkpointer, self.moment, log, told, stopped, self.learner.bad)
        if finished:
            if self.learner.trained.average is not None:
                self.learner.trained.average.restart()
            self.save()
            shutil.rmtree(folder, ignore_errors=True)
        return finished

    def evaluate(self) -> dict[str, float]:
        """Validation, of the averaged weights where there are such; nothing without held-out samples."""
        with self.learner.averaged(), as_written():
            rows = validate(
                self.model,
                self.feed.validation(),
                self.processor,
                self.mixture.keys,
                self.config.mask,
                self.learner.autocast,
            )
        return combined(rows, self.world)

    def _roll_out(self) -> Mapping[str, float]:
        folder = self.config.out / "rollouts" / f"step_{self.step:08d}"

        def play() -> Mapping[str, float]:
            assert self.rollout is not None
            export(self.config.out, folder / MODEL)
            return self.rollout(folder / MODEL, folder)

        return self.world.on_main(play)

    def save(self) -> None:
        """Write a checkpoint."""
        self.checkpointer.save(self.learner.trained, self.moment)

    @property
    def moment(self) -> Moment:
        """Where the run stands, and what it is made of."""
        documents = {
            "config": self.config.to_json(),
            "processor": self.processor.to_json(),
            SPEED: {"compiled": self.compiled},
        }
        return Moment(self.step, self.seconds, self.identity, self.learner.bad.count, documents)

    def _begun(self, out: Path, resume: bool) -> Moment | None:
        """Where the run in a folder stood last; None where there is none."""
        stage = self.world.on_main(lambda: next(reversed(complete(out / STAGE_FOLDER)), None))
        newest = self.checkpointer.newest() or stage
        if newest is None:
            return None
        if not resume:
            raise InputError(f"{out} already holds a run; resume it (--resume) or choose another --out.")
        return self.checkpointer.moment(newest)

    def restore(self) -> None:
        """Go on from the newest checkpoint if there is one."""
        if (path := self.checkpointer.newest()) is not None:
            moment = self.checkpointer.load(self.learner.trained, path)
            self.step, self.seconds, self.restored = moment.step, moment.seconds, True
            self.learner.bad.count = moment.skipped

    @contextmanager
    def _log(self) -> Iterator[Callable[[str, Mapping[str, float]], None]]:
        """Writes the run's numbers on rank 0, and nothing elsewhere."""
        if not self.world.is_main:
            yield lambda kind, numbers: None
            return
        with RunLog(self.config.out, self.step, self.config.trackers, self.config.to_json()) as log:
            yield lambda kind, numbers: log.write(self.step, kind, numbers)

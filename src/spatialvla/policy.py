"""Policy: an observation in, the actions to execute out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float, Int

from spatialvla.actions.units import ActionUnits
from spatialvla.batch import Batch
from spatialvla.collation import Prepared
from spatialvla.common.device import find_device
from spatialvla.errors import InputError
from spatialvla.execution import WHOLE_CHUNKS, Execution, Executor
from spatialvla.frozen_picture import FrozenPicture
from spatialvla.geometry.camera import View
from spatialvla.geometry.extrinsics import check_extrinsics, mirror_extrinsics
from spatialvla.kept_depth import with_kept_depth
from spatialvla.matching import check_belongs
from spatialvla.model.decoding.chunk import decode
from spatialvla.model.decoding.passes import Sampling
from spatialvla.model.fast.optimize import check_optimization
from spatialvla.model.fast.options import Optimization
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.readout import CellMiddles, mean_actions
from spatialvla.types import ActionChunk, CameraImage, Observation, Readout, Uncertainty
from spatialvla.uncertainty import uncertainties

T = TypeVar("T")
Tokens = Sequence[Int[np.ndarray, "_ 3"] | None] | None
"""Tokens on the action grid for each row's first steps, or None where there are none."""

MOST_DRAFTED = 8
"""Rows of a batch up to which drafts pay on a CPU: with more, checking all places costs what it saves."""


class Policy:
    """A model and its processor, driving a robot."""

    def __init__(
        self,
        model: SpatialVLA,
        processor: Processor,
        *,
        dataset: str | None = None,
        execution: Execution = WHOLE_CHUNKS,
        prompt: str = "{instruction}",
        temperature: float = 0.0,
        speculate: bool = True,
        tolerance: int = 0,
        depth_every: int = 1,
        uncertainty: bool = False,
        readout: Readout | None = None,
    ) -> None:
        """dataset: whose statistics scale the actions; None takes those of the dataset that the checkpoint was
        trained on last, or the only ones it has.

        prompt: a template around the lower-cased instruction; models are trained on the instruction alone.
        speculate: let `act` and `decide` guess each chunk from the last one. The chunks are the same, and
        come sooner.
        tolerance: cells by which a guess may miss each coordinate and still be taken; above 0 chunks differ.
        depth_every: decisions of an episode that share one estimated depth map.
        uncertainty: tell with each chunk how sure the model was, which takes one pass of the decoder more.
        readout: the actions of the likeliest tokens, or the mean over all tokens, which takes the same pass; None is
        as the checkpoint says. Sampled tokens have no mean.
        Raises CheckpointError where model and processor do not belong together.
        """
        check_belongs(model.config, processor)
        readout = _said(readout, processor)
        _check_use(prompt, tolerance, depth_every, temperature, readout)
        self.model = model.eval()
        self.processor = processor
        self.dataset = processor.dataset_for(dataset)
        self.execution = execution
        self.prompt = prompt
        self.temperature = temperature
        self.speculate = speculate
        self.tolerance = tolerance
        self.depth_every = depth_every
        self.uncertainty = uncertainty
        self.readout = readout
        self._executor = self.new_executor()
        self._pictures = FrozenPicture(measured=False)
        self._told = np.zeros(3)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        dataset: str | None = None,
        suite: str | None = None,
        execution: Execution = WHOLE_CHUNKS,
        prompt: str = "{instruction}",
        temperature: float = 0.0,
        speculate: bool = True,
        tolerance: int = 0,
        depth_every: int = 1,
        uncertainty: bool = False,
        readout: Readout | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str = "cpu",
        optimization: Optimization | None = None,
        base: str | Path | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        processor: Processor | None = None,
    ) -> Policy:
        """Loads a checkpoint folder, a shipped model ("nano", "nano-wrist") or a Hub id.

        suite: a benchmark's, that is to be played: where no dataset is named, the one that is called so comes first.
        dtype: of the weights, or its name, such as "bfloat16". device: "auto" is the GPU if there is one.
        optimization: how to make the model faster, at the price that it can neither be trained nor saved.
        base: of an adapter, in place of the one that its adapter_config.json names. revision, token: of the Hub's.
        processor: the checkpoint's own, where it has been read already; reading takes seconds at the 4 B size.
        """
        # Loading the weights takes longest: whatever can be refused is refused before.
        if processor is None:
            processor = Processor.from_pretrained(path_or_id, revision=revision, token=token)
        _check_use(prompt, tolerance, depth_every, temperature, _said(readout, processor))
        dataset = processor.dataset_for(dataset, suite)
        if optimization is not None:
            check_optimization(optimization, find_device(device))
        model = SpatialVLA.from_pretrained(
            path_or_id, dtype=dtype, device=device, base=base, revision=revision, token=token
        )
        if optimization is not None:
            model = model.optimize(optimization)
        return cls(
            model,
            processor,
            dataset=dataset,
            execution=execution,
            prompt=prompt,
            temperature=temperature,
            speculate=speculate,
            tolerance=tolerance,
            depth_every=depth_every,
            uncertainty=uncertainty,
            readout=readout,
        )

    @property
    def units(self) -> ActionUnits:
        """What 1 in the actions is."""
        return self.processor.action_units(self.dataset)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """What the model's cameras are called; `Observation.image` is the first one's."""
        return self.model.config.cameras

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the numbers of the state are; empty where the model takes none, or has seen none of its dataset."""
        return self.processor.states_of(self.dataset)

    @property
    def needs_extrinsics(self) -> bool:
        """Whether observations have to say where the camera stands, because the model works in the robot's frame."""
        return self.model.config.needs_extrinsics

    def new_executor(self) -> Executor:
        """Execution state for one more episode beside the policy's own."""
        return Executor(self.execution)

    def prepare(self, observation: Observation, committed: Int[np.ndarray, "P 3"] | None = None) -> Prepared:
        """Checks an observation and brings it to the model's size; `predict` and `decide` take it as it is then.

        Of use where a bad observation should fail by itself, before it shares a batch with others.
        committed: tokens of the first steps of the next chunk, which are under way; it begins with them.
        Raises InputError for what the model cannot use.
        """
        if not isinstance(observation, Observation):
            raise InputError(
                "A policy takes an Observation(image, instruction, intrinsics, depth, extrinsics), not a "
                f"{type(observation).__name__}."
            )
        first = self.camera_names[0]
        seen = observation.cameras(first)
        shown = seen.get(first)
        return self.processor.prepare(
            None if shown is None else shown.image,
            self.processor.prompt(observation.instruction, self.prompt),
            self.dataset,
            intrinsics=None if shown is None else shown.intrinsics,
            depth=None if shown is None else shown.depth,
            extrinsics=None if shown is None else self._picture_pose(first, shown),
            other_views={name: self._view(name, one) for name, one in seen.items() if name != first},
            state=observation.state,
            committed=committed,
        )

    def predict(
        self,
        observations: Sequence[Observation | Prepared],
        *,
        committed: Tokens = None,
        drafts: Tokens = None,
    ) -> list[ActionChunk]:
        """A chunk for each observation, in one batch; keeps no state.

        committed: the first steps of a chunk that are already under way; it begins with them. Observations
        that are prepared may bring their own, which no others can replace.
        drafts: a guess of the chunk or of its first steps, None for one that nothing is known of. With drafts
        the chunks are the same (but see `tolerance`) and take fewer passes; without any, not even a list,
        each token takes one.
        Raises InputError if some images have extrinsics and others do not, and for tokens that cannot be.
        """
        rows = self._rows(observations, committed)
        guesses = None
        if drafts is not None:
            guesses = [self.processor.checked_tokens(tokens) for tokens in _one_each(observations, drafts)]
        return self._predict(rows, self._batch(rows), guesses)

    def decide(
        self,
        observations: Sequence[Observation | Prepared],
        executors: Sequence[Executor],
        *,
        committed: Tokens = None,
    ) -> list[ActionChunk]:
        """A chunk for each episode, in one batch, with what its executor knows: last chunk, depth, steps under way.

        Feed each chunk to its executor afterwards. committed: as of `predict`, where others than the
        executors drive; steps that a prepared observation brings hold in place of its executor's, too.
        """
        rows = self._rows(observations, committed)
        if committed is None:
            under_way = _one_each(observations, [executor.committed() for executor in executors])
            rows = [
                row if len(row.committed) else self._committing(row, steps)
                for row, steps in zip(rows, under_way, strict=True)
            ]
        drafts = None
        if self.speculate and self.temperature == 0:
            drafts = [executor.draft(row.committed) for executor, row in zip(executors, rows, strict=True)]
        batch = self._batch(rows)
        if self.depth_every > 1 or any(executor.keeps_depth for executor in executors):
            batch = with_kept_depth(self.model, batch, rows, executors, self.depth_every)
        return self._predict(rows, batch, drafts)

    def depth(self, observations: Sequence[Observation]) -> Float[np.ndarray, "N S S"]:
        """The depth the model works with, its own estimate or the sensor's, in meters, of each image.

        N: of each observation the images of all cameras that one of them has, in the order of `camera_names`.
        S is the side of the model's square image, which shows all of the observation's image.
        """
        batch = self._batch(self._rows(observations, None))
        return np.asarray(self.model.depth(batch).float().cpu())

    def _view(self, name: str, seen: CameraImage) -> View:
        """What another camera than the first sees, checked. Raises InputError, naming the camera."""
        try:
            return View.of(seen.image, seen.intrinsics, seen.depth, self._picture_pose(name, seen))
        except InputError as error:
            raise InputError(f"Camera {name}: {error}") from None

    def _picture_pose(self, name: str, seen: CameraImage) -> Float[np.ndarray, "4 4"] | None:
        """A camera's extrinsics, checked, as they go with its picture; None where the model uses none."""
        pose = None if seen.extrinsics is None else check_extrinsics(seen.extrinsics)
        if not self.needs_extrinsics:
            return None
        if pose is None:
            raise InputError(
                "This policy places what it sees in the robot's frame and has to know where the camera stands; "
                f"pass extrinsics of the camera {name!r}, the 4x4 matrix camera -> robot base in meters, or give "
                "`predict` or `serve` the robot's calibration file (--calibration)."
            )
        return mirror_extrinsics(pose) if seen.mirrored else pose

    @cached_property
    def _middles(self) -> CellMiddles:
        return CellMiddles.of(self.processor, self.dataset)

    def _rows(self, observations: Sequence[Observation | Prepared], committed: Tokens) -> list[Prepared]:
        if isinstance(observations, Observation | Prepared | Mapping):
            raise InputError(
                "Pass observations as a list, of one where there is one; `act` takes it by itself."
            )
        if len(observations) == 0:
            raise InputError("The list of observations is empty; pass one at least.")
        given = _one_each(observations, [None] * len(observations) if committed is None else committed)
        return [
            self._committing(one, steps) if isinstance(one, Prepared) else self.prepare(one, steps)
            for one, steps in zip(observations, given, strict=True)
        ]

    def _committing(self, row: Prepared, steps: Int[np.ndarray, "P 3"] | None) -> Prepared:
        """The row with these steps under way. Raises InputError for what cannot be, and where it has others."""
        committed = self.processor.checked_tokens(steps)
        if len(committed) == 0:
            return row
        if len(row.committed) and not np.array_equal(row.committed, committed):
            raise InputError(
                "A prepared observation has other steps under way than are given as committed; give them once, to "
                "`prepare` or here."
            )
        return replace(row, committed=committed)

    def _batch(self, rows: Sequence[Prepared]) -> Batch:
        batch = self.processor.collate(rows, pad_to_multiple_of=self.model.passes.prompt_multiple)
        return batch.to(self.model.device)

    def act(self, observation: Observation) -> ActionChunk:
        """The actions to execute before the next call, as `execution` asks, with the tokens of `Executor.execute`.

        The uncertainty is that of the whole chunk that was predicted.
        A picture that stays the same, bit for bit, while the actions lead elsewhere is told in the log: the
        camera may have stopped.
        """
        (chunk,) = self.decide([observation], [self._executor])
        if self.units.meters is not None:
            self._pictures.check(observation.cameras(self.camera_names[0]), self._told * self.units.meters)
        executed = self._executor.execute(chunk)
        self._told = self._told + executed.actions[:, :3].sum(axis=0)
        return executed

    def infer(self, observation: Observation, committed: Int[np.ndarray, "P 3"] | None = None) -> ActionChunk:
        """The whole next chunk, for `AsynchronousLoop(policy.infer, control_hz)`, which decides what is executed."""
        (chunk,) = self.decide([observation], [self._executor], committed=[committed])
        self._executor.remember(chunk, len(chunk.actions))
        return chunk

    def reset(self) -> None:
        """Starts a new episode: forgets the chunks and the depth of the last one."""
        self._executor.reset()
        self._pictures.reset()

    def _predict(self, rows: Sequence[Prepared], batch: Batch, drafts: Tokens) -> list[ActionChunk]:
        if len(batch) > MOST_DRAFTED and self.model.device.type == "cpu":
            drafts = None
        committed = [row.committed for row in rows]
        decoded = decode(
            self.model.passes,
            batch,
            committed_ids=self.processor.token_ids(committed) if any(map(len, committed)) else None,
            draft_ids=None if drafts is None else self.processor.token_ids(drafts),
            tolerance=self.tolerance,
            cells=self.processor.grid.cells,
            sampling=Sampling.at(self.temperature),
            probabilities=self.uncertainty or self.readout == "mean",
        )
        tokens = self.processor.tokens(decoded.ids)
        actions = self.processor.actions(tokens, self.dataset)
        if self.readout == "mean" and decoded.probabilities is not None:
            actions = mean_actions(actions, decoded.probabilities, self._middles)
        unsure: Sequence[Uncertainty | None] = [None] * len(rows)
        if self.uncertainty and decoded.probabilities is not None:
            unsure = uncertainties(decoded.probabilities, self._middles, self.units.meters)
        return [ActionChunk(*chunk) for chunk in zip(actions, tokens, unsure, strict=True)]


def _one_each(observations: Sequence[Observation | Prepared], tokens: Sequence[T]) -> Sequence[T]:
    """The tokens, if there are as many as observations. Raises InputError where there are not."""
    if len(tokens) != len(observations):
        raise InputError(
            f"Got {len(observations)} observations and tokens for {len(tokens)}; pass as many of each."
        )
    return tokens


def _said(readout: Readout | None, processor: Processor) -> Readout:
    return processor.readout if readout is None else readout


def _check_use(prompt: str, tolerance: int, depth_every: int, temperature: float, readout: Readout) -> None:
    if "{instruction}" not in prompt:
        raise InputError(f"The prompt template {prompt!r} lacks {{instruction}}.")
    if set("{}") & set(prompt.replace("{instruction}", "")):
        raise InputError(f"The prompt template {prompt!r} has other braces than {{instruction}}'s.")
    if tolerance < 0 or depth_every < 1:
        raise InputError(
            f"tolerance must be 0 or more and depth_every at least 1, got {tolerance} and {depth_every}."
        )
    if readout not in get_args(Readout):
        raise InputError(f"readout must be {' or '.join(get_args(Readout))}, got {readout!r}.")
    if temperature > 0 and readout == "mean":
        raise InputError(
            "This policy says the mean of its actions, and a temperature draws one of them; set temperature to 0 or "
            "readout to likeliest."
        )

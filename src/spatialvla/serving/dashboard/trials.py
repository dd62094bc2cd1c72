"""Pictures and an instruction tried by hand: asked of the engine in turn with the robots, and sent to none."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image

from spatialvla.actions.units import ActionUnits
from spatialvla.calibration.policy_calibration import PolicyCalibration
from spatialvla.common.pictures import open_picture, to_rgb
from spatialvla.errors import InputError
from spatialvla.execution import WHOLE_CHUNKS, Executor
from spatialvla.policy import Policy
from spatialvla.readout import in_units_of
from spatialvla.serving.dashboard.shown import ShownDecision, shown_cameras
from spatialvla.serving.engine.requests import Answer, PolicyRequest
from spatialvla.serving.engine.service import Service
from spatialvla.serving.engine.turns import Client
from spatialvla.serving.failures import Busy
from spatialvla.types import CameraImage, Observation

_KEPT = 4
_FORMATS = ("JPEG", "PNG", "WEBP")
_SIDE = 1024
"""Pixels of a picture's longest side as the policy gets it; photographs are larger, and the model's picture is not."""


@dataclass(frozen=True)
class Trial:
    """What was tried and answered. number: of its picture's addresses. units: of the actions."""

    number: int
    dataset: str
    units: ActionUnits
    decision: ShownDecision


class Trials:
    """Answers one trial at a time, and keeps the last few for their pictures."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._client = Client("dashboard", "dashboard")
        self._busy = False
        self._kept: OrderedDict[int, Trial] = OrderedDict()
        self._count = 0

    def find(self, number: int) -> ShownDecision | None:
        """What is still kept of a trial."""
        trial = self._kept.get(number)
        return None if trial is None else trial.decision

    async def ask(self, files: Mapping[str, bytes], instruction: str, dataset: str) -> Trial:
        """The answer to pictures, by camera, and an instruction. dataset: whose units the actions have.

        Raises InputError for what cannot be used, ServingError where the server has no time or fails.
        """
        if self._busy:
            raise Busy("Another trial is under way; try again when it is answered.")
        self._busy = True
        try:
            return await self._ask(files, instruction, dataset)
        finally:
            self._busy = False

    async def _ask(self, files: Mapping[str, bytes], instruction: str, dataset: str) -> Trial:
        service, policy = self._service, self._service.policy
        threads = service.engine.threads
        observation = await asyncio.wrap_future(
            threads.submit(self._client, partial(_observation, service, files, instruction.strip(), dataset))
        )
        executor = Executor(WHOLE_CHUNKS)
        executor.keeps_depth = True
        request = PolicyRequest(observation, executor, timeout=service.traffic.request_timeout)
        submitted = threads.submit(self._client, partial(service.engine.submit, request, client=self._client))
        pending = await asyncio.wrap_future(submitted)
        answer = await asyncio.wrap_future(pending)
        self._count += 1
        trial = self._kept[self._count] = _trial(self._count, policy, dataset, answer, executor)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return trial


def _observation(service: Service, files: Mapping[str, bytes], instruction: str, dataset: str) -> Observation:
    policy = service.policy
    policy.processor.dataset_statistics(dataset)
    if not files:
        raise InputError("Choose a picture; the policy has to see something.")
    images = {name: CameraImage(_picture(name, content)) for name, content in files.items()}
    observation = Observation(instruction=instruction, images=images)
    if service.calibration is not None:
        known = PolicyCalibration(
            service.calibration, policy.camera_names, needs_extrinsics=policy.needs_extrinsics
        )
        return known.observation(observation, policy.camera_names[0])
    if dataset == policy.dataset:
        return observation
    with_camera = {name: _seen_in(dataset, policy, name, seen) for name, seen in images.items()}
    return replace(observation, images=with_camera)


def _picture(camera: str, content: bytes) -> Image.Image:
    try:
        picture = to_rgb(open_picture(content, _FORMATS))
    except InputError as error:
        raise InputError(f"The picture of the camera {camera} cannot be used: {error}.") from None
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return picture


def _seen_in(dataset: str, policy: Policy, name: str, seen: CameraImage) -> CameraImage:
    """The picture with the K of the dataset's own camera, which the policy would not take by itself."""
    height, width = np.asarray(seen.image).shape[:2]
    return replace(seen, intrinsics=policy.processor.camera(dataset, name).scaled_to(height, width))


def _trial(number: int, policy: Policy, dataset: str, answer: Answer, executor: Executor) -> Trial:
    chunk = answer.chunk
    if dataset != policy.dataset:  # the engine's answers are in the units of the policy's own
        actions = in_units_of(dataset, chunk, policy.dataset, policy.processor)
        chunk = replace(chunk, actions=actions, uncertainty=None)
    observation, units = answer.request.observation, policy.processor.action_units(dataset)
    cameras = shown_cameras(
        observation, policy.camera_names, executor.depth, None, chunk.actions, chunk.actions, units
    )
    decision = ShownDecision(
        number=1,
        instruction=observation.instruction,
        cameras=cameras,
        chunk=chunk,
        sent=chunk.actions,
        clamped={},
        timings=answer.timings,
    )
    return Trial(number, dataset, units, decision)

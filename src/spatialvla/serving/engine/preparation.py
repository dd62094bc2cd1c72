"""Checks a request and shrinks its picture to the model's size, outside the model's thread.

A bad request fails here, before it shares a batch with others. What comes out predicts the same as what went in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from spatialvla.errors import InputError
from spatialvla.geometry.camera import View
from spatialvla.policy import Policy
from spatialvla.serving.engine.requests import ChunkRequest
from spatialvla.types import Observation

MAX_INSTRUCTION = 1000
"""Characters; the longest instruction of any Open X-Embodiment dataset is far below."""


@dataclass(frozen=True)
class Preparation:
    """What is known of the model before it runs.

    image_size: side of its square image. chunk: steps. token_ranges: (first, end) of the numbers of a
    translation, a rotation and a gripper token. max_image: longest side of an image a client may send.
    """

    image_size: int
    chunk: int
    token_ranges: tuple[tuple[int, int], ...]
    max_image: int = 2048

    @classmethod
    def of(cls, policy: Policy, max_image: int = 2048) -> Preparation:
        """The preparation for a policy's model."""
        processor = policy.processor
        ranges = tuple((int(first), int(end)) for first, end in processor.grid.ranges)
        return cls(processor.image_size, processor.action_chunk_size, ranges, max_image)

    def __call__(self, request: ChunkRequest) -> ChunkRequest:
        """Raises InputError for anything the model could not use."""
        return replace(
            request,
            observation=self._observation(request.observation),
            committed=self._committed(request.committed),
        )

    def dummy(self) -> ChunkRequest:
        """A request to warm up with."""
        image = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        return ChunkRequest(Observation(image, "pick up the black bowl and place it on the plate"))

    def _observation(self, observation: Observation) -> Observation:
        text = observation.instruction
        if not isinstance(text, str) or not text.strip():
            raise InputError("The instruction is empty; say what the robot is to do.")
        if len(text) > MAX_INSTRUCTION:
            raise InputError(f"The instruction has {len(text)} characters; {MAX_INSTRUCTION} are allowed.")
        self._check_size("image", observation.image)
        if observation.depth is not None:
            self._check_size("depth map", observation.depth)
        view = View.of(observation.image, observation.intrinsics, observation.depth).resized(self.image_size)
        return Observation(view.image, text, view.intrinsics, view.depth)

    def _check_size(self, name: str, picture: np.ndarray | Image.Image) -> None:
        shape = picture.size if isinstance(picture, Image.Image) else np.shape(picture)
        if len(shape) < 2 or max(shape[:2]) > self.max_image or 0 in shape[:2]:
            raise InputError(
                f"The {name} has shape {tuple(shape)}; sides of 1 to {self.max_image} are allowed."
            )

    def _committed(self, tokens: np.ndarray | None) -> np.ndarray | None:
        if tokens is None:
            return None
        numbers = np.asarray(tokens)
        if numbers.size == 0:
            return None
        if (
            numbers.ndim != 2
            or numbers.shape[1] != 3
            or len(numbers) > self.chunk
            or numbers.dtype.kind not in "iu"
        ):
            raise InputError(
                f"committed must be (P, 3) whole token numbers with P up to {self.chunk}, got {numbers.dtype} "
                f"of shape {numbers.shape}."
            )
        first, end = np.array(self.token_ranges).T
        if (numbers < first).any() or (numbers >= end).any():
            raise InputError(
                "committed holds numbers that are no tokens of their kind; send back what was received."
            )
        return numbers.astype(np.int64)

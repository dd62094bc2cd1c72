"""Whoever looks on while a policy is served: what each decision was made of, in every protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float

from spatialvla.serving.engine.requests import Answer
from spatialvla.serving.engine.turns import Client

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class WatchedDecision:
    """One decision of one session. Nothing in it may be changed.

    answer: the observation, the whole chunk, and where the time went. actions: those that are sent.
    clamped: steps that each of the robot's limits changed. fingertips: meters in the robot's frame, where that is
    known. depth: the maps (S, S), in meters, that the model estimated, by the number of the camera; empty where
    nobody was `watching` when the request came.
    """

    client: Client
    answer: Answer
    actions: Float[np.ndarray, "k 7"]
    clamped: Mapping[str, int]
    fingertips: Float[np.ndarray, "3"] | None
    depth: Mapping[int, torch.Tensor]


class Watcher(Protocol):
    """Is told of every decision, from the thread that sends it: what takes time belongs elsewhere."""

    @property
    def watching(self) -> bool:
        """Whether somebody looks now, so that depth maps are worth keeping."""

    def decided(self, decided: WatchedDecision) -> None:
        """A decision that is sent next."""

    def ended(self, client: Client) -> None:
        """A client's episode is over; what it asks next is of another one."""

"""One robot client: its episode, and the newest of its observations."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from spatialvla.serving.engine.session import Session
from spatialvla.serving.guard.inbox import Message
from spatialvla.serving.guard.traffic import Throttle
from spatialvla.serving.lerobot.observation import TimedObservation
from spatialvla.serving.lerobot.uploads import Upload


@dataclass
class RobotClient:
    """What is known of a client, by its connection."""

    session: Session
    throttle: Throttle
    numbers: tuple[str, ...] = ()
    actions: int | None = None
    newest: TimedObservation | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    began_to_arrive: float = 0.0  # when the newest observation did
    kept: Message | None = None  # under which the newest observation is counted
    decided: int | None = None  # timestep of the observation that was last decided on
    state: np.ndarray | None = None  # of the robot then
    began: float = field(default_factory=monotonic)
    answers: int = 0

    def keep(self, seen: TimedObservation, upload: Upload) -> None:
        """An observation to decide on, in place of one that still waits, and until its bytes are needed."""
        self.forget()
        message = upload.message
        self.newest, self.began_to_arrive, self.kept = seen, upload.began, message
        message.evict = self.forget
        self.arrived.set()

    def take(self) -> tuple[TimedObservation | None, Message | None]:
        """The newest observation, which is decided on now."""
        seen, message = self.newest, self.kept
        self.newest = self.kept = None
        self.arrived.clear()
        if message is not None:
            message.complete()
        return seen, message

    def forget(self) -> None:
        """Lets go of the observation that waits."""
        _, message = self.take()
        if message is not None:
            message.close()

"""Which action comes next while chunks overlap: the asynchronous plan, without clocks or threads."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

WhenLate = Literal["hold", "repeat"]
"""When the plan is used up and no chunk has arrived: hold still, or repeat the last action."""


class ChunkLike(Protocol):
    """Actions for the next steps, first to last."""

    @property
    def actions(self) -> np.ndarray:
        """(T, 7): relative motions, then the gripper with 1 = open."""
        ...

    @property
    def tokens(self) -> np.ndarray | None:
        """(T, 3) tokens on the action grid; None where the policy does not tell them."""
        ...


@dataclass(frozen=True)
class ChunkRequest:
    """A chunk that was asked for, and the state of the schedule at that step.

    under_way: (P, 7) actions of the plan at that step: those that may be executed before the chunk arrives; None
    where there are none.
    committed: tokens (…, 3) of those of them that are expected to be; None where there are none.
    expected: steps after which the chunk should have arrived.
    ticks, moved: of the schedule when it was asked for.
    """

    under_way: np.ndarray | None
    committed: np.ndarray | None
    expected: int
    ticks: int
    moved: int


class Schedule:
    """The plan of one episode.

    ticks: steps since the start.
    moved: those of them in which the robot followed a chunk. Actions are relative motions, so a robot that
    stood still continues a late chunk where it stopped and skips nothing.
    late: chunks that arrived later than expected.
    holds: steps without a plan.
    dropped: chunks whose steps were all past.
    stopped: whether the plan was given up, and nothing has taken its place yet.
    """

    def __init__(self, when_late: WhenLate = "hold") -> None:
        """Raises ValueError for an unknown choice."""
        if when_late not in get_args(WhenLate):
            raise ValueError(f"when_late must be hold or repeat, not {when_late!r}.")
        self.when_late = when_late
        self._plan: deque[tuple[np.ndarray, np.ndarray | None]] = deque()
        self._last: np.ndarray | None = None
        self.stopped = False
        self.ticks = self.moved = self.late = self.holds = self.dropped = 0

    @property
    def remaining(self) -> int:
        """Steps that are left in the plan."""
        return len(self._plan)

    @property
    def started(self) -> bool:
        """Whether a chunk has arrived."""
        return self._last is not None or bool(self._plan)

    @property
    def next_tokens(self) -> np.ndarray | None:
        """(3,) tokens of the plan's next step; None where the plan is used up or does not tell them."""
        return self._plan[0][1] if self._plan else None

    def request(self, steps: int) -> ChunkRequest:
        """Asks for a chunk that is expected after `steps` steps; those of the plan are committed."""
        plan = list(self._plan)
        under_way = np.stack([action for action, _ in plan]) if plan else None
        known = [tokens for _, tokens in plan[:steps] if tokens is not None]
        committed = np.stack(known) if known and len(known) == len(plan[:steps]) else None
        return ChunkRequest(under_way, committed, steps, self.ticks, self.moved)

    def arrive(self, request: ChunkRequest, chunk: ChunkLike) -> bool:
        """Lets a chunk take over from the present step on; False if its steps are past and it is dropped."""
        if self.started and self.ticks - request.ticks > request.expected:
            self.late += 1
        done = self.moved - request.moved
        if done >= len(chunk.actions):
            self.dropped += 1
            return False
        tokens = [None] * len(chunk.actions) if chunk.tokens is None else list(chunk.tokens)
        self._plan = deque(zip(chunk.actions[done:], tokens[done:], strict=True))
        self.stopped = False
        return True

    def stop(self) -> None:
        """Drops the plan; until the next chunk takes over the robot holds still, whatever `when_late` says."""
        self._plan.clear()
        self.stopped = True

    def advance(self) -> np.ndarray:
        """The action (7,) of the present step. Raises RuntimeError before the first chunk has arrived."""
        self.ticks += 1
        if self._plan:
            self._last = self._plan.popleft()[0]
            self.moved += 1
            return self._last
        if self._last is None:
            raise RuntimeError("There is no action before the first chunk has arrived.")
        self.holds += 1
        if self.when_late == "repeat" and not self.stopped:
            self.moved += 1
            return self._last
        still = np.zeros_like(self._last)
        still[-1] = self._last[-1]
        return still

"""Which action comes next while chunks overlap: the plan of an asynchronous loop, without clocks or threads."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol, get_args

import numpy as np

WhenLate = Literal["hold", "repeat"]
"""What the robot does when the plan is used up and no chunk has come: stand still, or the last action again."""


class ChunkLike(Protocol):
    """Actions for the next steps, first to last.

    actions: (T, 7), relative motions and a gripper at the end, 1 = open. tokens: (T, 3) token numbers on the action
    grid, or None where the model's side does not tell them.
    """

    @property
    def actions(self) -> np.ndarray: ...
    @property
    def tokens(self) -> np.ndarray | None: ...


@dataclass(frozen=True)
class ChunkRequest:
    """A chunk that was asked for at one moment.

    committed: (P, 3) tokens of the steps that will be executed whatever the chunk says; None where there are none.
    expected: steps after which it should be there. ticks, moved: of the schedule at that moment.
    """

    committed: np.ndarray | None
    expected: int
    ticks: int
    moved: int


class Schedule:
    """The steps that are to come, of one episode.

    ticks: steps since the start. moved: those of them in which the robot followed a chunk. Actions are relative
    motions, so a robot that stood still goes on in a late chunk where it stopped, and skips nothing.
    late: chunks that came later than expected. holds: steps without a plan. dropped: chunks of which
    nothing was left to do.
    """

    def __init__(self, when_late: WhenLate = "hold") -> None:
        """Raises ValueError for an unknown choice."""
        if when_late not in get_args(WhenLate):
            raise ValueError(f"when_late must be hold or repeat, not {when_late!r}.")
        self.when_late = when_late
        self._plan: deque[tuple[np.ndarray, np.ndarray | None]] = deque()
        self._last: np.ndarray | None = None
        self.ticks = self.moved = self.late = self.holds = self.dropped = 0

    @property
    def remaining(self) -> int:
        """Steps of the plan that are still to come."""
        return len(self._plan)

    @property
    def started(self) -> bool:
        """Whether any chunk has come yet."""
        return self._last is not None or bool(self._plan)

    def request(self, steps: int) -> ChunkRequest:
        """The state in which a chunk is asked for that is expected after so many steps."""
        under_way = [tokens for _, tokens in islice(self._plan, steps)]
        known = [tokens for tokens in under_way if tokens is not None]
        committed = np.stack(known) if known and len(known) == len(under_way) else None
        return ChunkRequest(committed, steps, self.ticks, self.moved)

    def arrive(self, request: ChunkRequest, chunk: ChunkLike) -> bool:
        """The chunk takes over from the present step on; False where all of it is past, and it is dropped."""
        if self.started and self.ticks - request.ticks > request.expected:
            self.late += 1
        done = self.moved - request.moved
        if done >= len(chunk.actions):
            self.dropped += 1
            return False
        tokens = [None] * len(chunk.actions) if chunk.tokens is None else list(chunk.tokens)
        self._plan = deque(zip(chunk.actions[done:], tokens[done:], strict=True))
        return True

    def advance(self) -> np.ndarray:
        """The action (7,) of the present step. Raises RuntimeError before the first chunk has come."""
        self.ticks += 1
        if self._plan:
            self._last = self._plan.popleft()[0]
            self.moved += 1
            return self._last
        if self._last is None:
            raise RuntimeError("There is no action before the first chunk has come.")
        self.holds += 1
        if self.when_late == "repeat":
            self.moved += 1
            return self._last
        still = np.zeros_like(self._last)
        still[-1] = self._last[-1]
        return still

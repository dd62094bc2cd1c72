"""Why a request got no actions: each failure is one sentence for the client and one word for the metrics."""

from __future__ import annotations

from spatialvla.errors import InputError


class ServingError(Exception):
    """A request that is not answered with actions; str() of it is what the client is told."""

    outcome = "error"


class Busy(ServingError):
    """The queue is full, or this connection has as many requests waiting as it may."""

    outcome = "busy"


class Draining(ServingError):
    """The server is shutting down: it answers what it has accepted, and accepts nothing more."""

    outcome = "draining"


class DeadlineExceeded(ServingError):
    """The request waited for longer than its time-out."""

    outcome = "deadline"


class Stale(ServingError):
    """What was seen is too old to act on by now."""

    outcome = "stale"


class UnsafeAction(ServingError):
    """The policy's actions contain NaN or infinity; they are withheld."""

    outcome = "unsafe"


class TooUnsure(ServingError):
    """The policy has become less sure than the server acts on; nothing is sent until the next episode."""

    outcome = "unsure"


class InternalError(ServingError):
    """Not the client's fault: the log has the traceback, the client is told a number to find it by."""


def outcome(error: BaseException) -> str:
    """The metrics' word for an error."""
    if isinstance(error, InputError):
        return "bad_input"
    return error.outcome if isinstance(error, ServingError) else "error"

"""The errors of a client: what a robot's program catches."""

from __future__ import annotations


class ClientError(Exception):
    """Base of all errors of a client: there are no actions, and the message says why."""


class Unavailable(ClientError, ConnectionError):
    """The server could not be reached within the request's time."""


class RequestTimeout(ClientError, TimeoutError):
    """The server was reached and did not answer in time."""


class Refused(ClientError):
    """The server refused the request.

    outcome: its word for the reason: bad_input, busy, unsafe, deadline, error …
    """

    def __init__(self, message: str, outcome: str = "error") -> None:
        super().__init__(message)
        self.outcome = outcome


class ProtocolError(ClientError):
    """The server does not follow the protocol; its answer is not used."""

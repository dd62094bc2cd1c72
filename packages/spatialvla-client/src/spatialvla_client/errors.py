"""The errors of a client: what a robot's program catches."""

from __future__ import annotations


class ClientError(Exception):
    """No actions, and why."""


class Unavailable(ClientError, ConnectionError):
    """The server could not be reached, or was lost, for as long as the request may take."""


class RequestTimeout(ClientError, TimeoutError):
    """The server was there and did not answer in time."""


class Refused(ClientError):
    """The server refused the request. outcome: its word for why: bad_input, busy, unsafe, deadline, error …"""

    def __init__(self, message: str, outcome: str = "error") -> None:
        super().__init__(message)
        self.outcome = outcome


class ProtocolError(ClientError):
    """The other side does not speak as agreed; its answer is not used."""

"""The client: an observation in, a chunk of actions out, over a connection that is made anew when it is lost.

with Client("ws://127.0.0.1:8000") as robot:
    chunk = robot.act(Observation(image, "put the spoon on the towel"))
"""

from __future__ import annotations

import itertools
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from spatialvla_client.channel import Channel
from spatialvla_client.codec import CodecError, pack, unpack
from spatialvla_client.errors import ClientError, ProtocolError, Refused, RequestTimeout, Unavailable
from spatialvla_client.messages import changed_conventions, chunk_of, message_of
from spatialvla_client.types import ActionChunk, Observation

_WORTH_RETRYING = ("busy", "draining")
_TOO_LARGE = 1009  # RFC 6455's close code for a message that is too big


@dataclass(frozen=True)
class Backoff:
    """Seconds between attempts to reach the server: `first`, doubled up to `longest`, with some jitter."""

    first: float = 0.1
    longest: float = 5.0

    def waits(self) -> Iterator[float]:
        """Seconds to wait before each next attempt, without end."""
        wait = self.first
        while True:
            yield wait * (0.5 + random.random() / 2)  # so that many robots do not come back at once
            wait = min(self.longest, 2 * wait)


class Client:
    """A connection to `spatialvla serve`. It carries one request at a time, and threads may share it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 10.0,
        backoff: Backoff = Backoff(),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Connects with the first request, not here.

        url: ws://host:port or wss://host:port.
        api_key: what the server asks for, if it does.
        timeout: seconds from `act` to its answer, reconnecting and sending included.
        backoff: how long to wait between attempts to connect.
        tls: for wss with a certificate that the system does not know.
        """
        self._url = url
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._timeout = timeout
        self._backoff = backoff
        self._tls = tls
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._metadata: dict[str, Any] = {}
        # Counted, as one may end while the last one's request is under way.
        self._episode, self._told_episode = 1, 0

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hangs up, after the request under way; a later one connects again."""
        with self._lock:
            channel, self._channel = self._channel, None
            if channel is not None:
                channel.close()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the server says about itself: keys, chunk length, units, gripper. Connects if necessary.

        A server that comes back with other conventions than these is not used any more: ProtocolError.
        """
        with self._lock:
            self._with_retries(lambda deadline: None)
            return self._metadata

    def reset(self) -> None:
        """Starts a new episode; the server is told with the next observation."""
        self._episode += 1

    def act(self, observation: Observation) -> ActionChunk:
        """The actions to execute before the next call.

        A lost connection is made anew and the observation sent again, until `timeout` is over. An answer to
        another observation is never returned. Raises Refused, Unavailable, RequestTimeout or ProtocolError.
        """
        return self.infer(observation, None)

    def infer(
        self,
        observation: Observation,
        committed: np.ndarray | None,
        under_way: np.ndarray | None = None,
    ) -> ActionChunk:
        """`act` while earlier actions are executed; what `AsynchronousLoop` calls.

        committed: (P, 3) tokens, with which the chunk begins. under_way: (P, 7) earlier actions, as they came, of
        which any number may be executed after the observation and before the chunk's steps after them; the server
        keeps its workspace whatever the number.
        """
        with self._lock:
            began = time.perf_counter()
            episode = self._episode
            reply = self._with_retries(
                lambda deadline: self._ask(observation, committed, under_way, episode, deadline)
            )
            return chunk_of(reply, (time.perf_counter() - began) * 1000)

    # ---------------------------------------------------------------- inside

    def _with_retries(self, attempt: Callable[[float], Any]) -> Any:
        deadline = time.monotonic() + self._timeout
        waits = self._backoff.waits()
        while True:
            try:
                self._connect(deadline)
                return attempt(deadline)
            except Refused as error:
                if error.outcome not in _WORTH_RETRYING:
                    raise
                reason: Exception = error
            except RequestTimeout:
                raise
            except ClientError:
                self._drop()
                raise
            except CodecError as error:
                self._drop()
                raise ProtocolError(f"{self._url} sent no msgpack message: {error}") from None
            except InvalidStatus as error:
                self._drop()
                if error.response.status_code in (401, 403):
                    raise Refused(
                        "The server asks for another API key; pass it as api_key.", "unauthorized"
                    ) from None
                reason = error
            except (OSError, InvalidHandshake, ConnectionClosed) as error:
                self._drop()
                if _was_too_large(error):
                    raise Refused(
                        "The observation is larger than the server takes; send smaller pictures or depth, or start "
                        "it with a larger --traffic.max-message-mb.",
                        "bad_input",
                    ) from None
                reason = error
            except WebSocketException as error:
                self._drop()
                raise ProtocolError(f"{self._url} is no websocket server ({error}).") from None
            wait = next(waits)
            if time.monotonic() + wait >= deadline:
                if isinstance(reason, Refused):
                    raise reason
                raise Unavailable(f"{self._url} cannot be reached ({reason}).") from None
            time.sleep(wait)

    def _connect(self, deadline: float) -> None:
        if self._channel is not None:
            return
        channel = Channel(self._url, deadline, headers=self._headers, tls=self._tls)
        try:
            self._metadata = self._checked(unpack(_binary(channel.receive(deadline))))
        except BaseException:
            channel.abandon()
            raise
        self._channel = channel

    def _checked(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """What the server says about itself. Raises ProtocolError where it is none of ours, or means other things."""
        if metadata.get("server") != "spatialvla" or not isinstance(metadata.get("keys"), dict):
            raise ProtocolError(f"{self._url} is a server of another kind; use its own client.")
        if self._metadata and (changes := changed_conventions(self._metadata, metadata)):
            raise ProtocolError(
                f"{self._url} is no longer the server that it was: {changes}. Check that the program fits this one, "
                "and make a new Client to go on with it."
            )
        return metadata

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.abandon()

    def _ask(
        self,
        observation: Observation,
        committed: np.ndarray | None,
        under_way: np.ndarray | None,
        episode: int,
        deadline: float,
    ) -> dict[str, Any]:
        assert self._channel is not None
        number = next(self._numbers)
        message = message_of(observation, self._metadata)
        message["request_id"] = number
        message["timeout"] = max(0.01, deadline - time.monotonic())
        if episode != self._told_episode:
            message["reset"] = True
        if committed is not None:
            message["committed"] = np.asarray(committed)
        if under_way is not None:
            message["under_way"] = np.asarray(under_way)
        try:
            packed = pack(message)
        except CodecError as error:
            raise Refused(str(error), "bad_input") from None
        try:
            self._channel.send(packed, deadline)
        except TimeoutError:
            self._drop()
            raise RequestTimeout(
                f"{self._url} did not read the request within {self._timeout:g} s."
            ) from None
        while True:
            try:
                reply = unpack(_binary(self._channel.receive(deadline)))
            except TimeoutError:
                raise RequestTimeout(f"{self._url} did not answer within {self._timeout:g} s.") from None
            answered = reply.get("request_id")
            if type(answered) is int and 0 < answered < number:
                continue  # answers a request that timed out
            if answered != number or type(answered) is not int:
                raise ProtocolError(f"Request {number} was answered with number {answered!r}.")
            self._told_episode = episode  # a refused request begins it, too
            if "error" in reply:
                raise Refused(str(reply["error"]), str(reply.get("outcome", "error")))
            return reply


def _was_too_large(error: Exception) -> bool:
    """Whether the server hung up as what we sent is too large, so that sending it again is no use."""
    return (
        isinstance(error, ConnectionClosed)
        and error.rcvd is not None
        and error.rcvd.code == _TOO_LARGE
        and error.rcvd_then_sent is not False
    )


def _binary(message: str | bytes) -> bytes:
    if isinstance(message, str):
        raise Refused(message)
    return message

"""One shard of vla-eval's harness: episodes begin and end, observations in, commands out."""

from __future__ import annotations

import uuid
from asyncio import wrap_future
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from spatialvla.common.extras import needs_extra
from spatialvla.errors import InputError
from spatialvla.serving.engine.service import Service
from spatialvla.serving.engine.turns import Client
from spatialvla.serving.guard.websocket import GuardedConnection
from spatialvla.serving.vla_eval.messages import read, with_pictures
from spatialvla.serving.vla_eval.model_server import VlaEvalServer
from spatialvla.serving.websocket.client import WebsocketClient

with needs_extra("vla-eval", "The protocol vla-eval"):
    from vla_eval.model_servers.base import SessionContext
    from vla_eval.protocol.messages import Message, MessageType, make_hello_payload, pack_message

T = TypeVar("T")


class HarnessClient(WebsocketClient):
    """One shard, and its episode."""

    def __init__(self, socket: GuardedConnection, service: Service, model: VlaEvalServer) -> None:
        super().__init__(socket, service)
        self._model = model
        self._name = str(uuid.uuid4())
        self._episode = SessionContext(self._name, "")

    async def answer(self, data: str | bytes) -> bool:
        """Answers one message; False for one that is none, whose connection ends as it does in the harness.

        An observation that cannot be answered is told why, and the connection goes on.
        """
        try:
            message = await self._in_thread(partial(read, data))
        except InputError as error:
            await self.refuse(error)
            return False
        match message.kind:
            case MessageType.HELLO:
                await self._reply(MessageType.HELLO, self._hello(), message.number)
            case MessageType.EPISODE_START:
                self._model.end(self._episode)
                self._episode = SessionContext(self._name, str(uuid.uuid4()))
                self._model.begin(message.payload, self._episode, self.socket.address)
            case MessageType.OBSERVATION:
                await self._act(message.payload, message.number)
            case MessageType.EPISODE_END:
                self._model.end(self._episode)
                self._episode = SessionContext(self._name, "")
            case MessageType.ERROR:
                self.service.clients.refused(self.name, "client_error", str(message.payload)[:500])
            case _:
                await self.refuse(InputError(f"There are no messages of type {message.kind[:40]!r}."))
                return False
        return True

    async def _act(self, payload: dict[str, Any], number: int) -> None:
        try:
            seen = await self._in_thread(partial(with_pictures, payload, self._model.picture_sizes))
            reply = await self._model.reply(seen, self._episode)
        except Exception as error:
            told = await self.refuse(error)
            await self._reply(MessageType.ERROR, {"error": str(told)}, number)
        else:
            self.answers += 1
            await self._reply(MessageType.ACTION, reply, number)

    async def _reply(self, kind: MessageType, payload: dict[str, Any], number: int) -> None:
        await self.send(pack_message(Message(type=kind, payload=payload, seq=number)))

    async def _in_thread(self, read: Callable[[], T]) -> T:
        client = Client(id(self), self.socket.address)
        return await wrap_future(self.service.engine.threads.submit(client, read))

    def _hello(self) -> dict[str, Any]:
        """What the harness is told of the server; it compares the specs with its benchmark's."""
        told: dict[str, Any] = make_hello_payload(
            model_server=type(self._model).__name__,
            capabilities={},
            observation_params=self._model.get_observation_params(),
            action_spec={name: spec.to_dict() for name, spec in self._model.get_action_spec().items()},
            observation_spec={
                name: spec.to_dict() for name, spec in self._model.get_observation_spec().items()
            },
        )
        return told

"""LeRobot's messages and calls over gRPC, as in the transport/services.proto of LeRobot 0.6."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from spatialvla.common.extras import needs_extra
from spatialvla.errors import InputError
from spatialvla.serving.failures import Busy, Draining, InternalError, ServingError

with needs_extra("lerobot-server", "The protocol lerobot"):
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

log = logging.getLogger(__name__)
SERVICE = "transport.AsyncInference"
BEGIN, MIDDLE, END = 1, 2, 3
"""The state of a part: where in its observation it stands."""

_MOST_BYTES_A_PART = 4 * 2**20

_FIELD = descriptor_pb2.FieldDescriptorProto
_FIELDS: dict[str, tuple[tuple[str, int], ...]] = {
    "Observation": (("transfer_state", _FIELD.TYPE_INT32), ("data", _FIELD.TYPE_BYTES)),
    "Actions": (("data", _FIELD.TYPE_BYTES),),
    "PolicySetup": (("data", _FIELD.TYPE_BYTES),),
    "Empty": (),
}


def _messages() -> dict[str, Any]:
    """A class for each message, in a pool of our own: LeRobot's may be loaded in the same process."""
    file = descriptor_pb2.FileDescriptorProto(name="services.proto", package="transport", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, start=1):
            message.field.add(name=field, number=number, type=kind, label=_FIELD.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"transport.{name}") for name in _FIELDS)
    return {kind.name: message_factory.GetMessageClass(kind) for kind in found}


MESSAGES = _messages()
ObservationPart, Actions = MESSAGES["Observation"], MESSAGES["Actions"]
PolicySetup, Empty = MESSAGES["PolicySetup"], MESSAGES["Empty"]


class Calls(Protocol):
    """What a server of this protocol answers; each call is told who makes it, "ipv4:127.0.0.1:53412"."""

    async def ready(self, peer: str) -> None:
        """A client begins a new episode."""

    async def send_policy_instructions(self, data: bytes, peer: str) -> None:
        """A pickled RemotePolicyConfig."""

    async def send_observations(self, parts: AsyncIterator[tuple[int, bytes]], peer: str) -> None:
        """The parts of one pickled TimedObservation."""

    async def get_actions(self, peer: str) -> bytes:
        """A pickled list of TimedAction, or nothing where none is ready in time."""


class Listener(Protocol):
    """A running gRPC server."""

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, and ends those under way after `grace` seconds, None for at once."""


async def listen(
    calls: Calls, host: str, port: int, *, max_message: int, max_calls: int
) -> tuple[Listener, int]:
    """A running gRPC server and its port. Raises InputError where the address cannot be bound.

    port: 0 takes a free one. max_message: bytes of a part. max_calls: at a time.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", min(_MOST_BYTES_A_PART, max_message)),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=max_calls,
    )
    server.add_generic_rpc_handlers((_handlers(calls),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError:
        raise InputError(f"{address} cannot be bound; choose another --port.") from None
    await server.start()
    return server, bound


def _handlers(calls: Calls) -> Any:
    """gRPC's handlers for a server's calls."""

    def guarded(answer: Callable[[Any, str], Awaitable[Any]]) -> Any:
        async def handle(request: Any, context: Any) -> Any:
            try:
                return await answer(request, context.peer())
            except Exception as error:
                await _abort(context, error)

        return handle

    async def ready(_: Any, peer: str) -> Any:
        await calls.ready(peer)
        return Empty()

    async def send_policy_instructions(request: Any, peer: str) -> Any:
        await calls.send_policy_instructions(request.data, peer)
        return Empty()

    async def send_observations(requests: Any, peer: str) -> Any:
        await calls.send_observations(((part.transfer_state, part.data) async for part in requests), peer)
        return Empty()

    async def get_actions(_: Any, peer: str) -> Any:
        return Actions(data=await calls.get_actions(peer))

    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_unary_rpc_method_handler
    methods = {
        "Ready": (unary, ready, Empty),
        "SendPolicyInstructions": (unary, send_policy_instructions, PolicySetup),
        "SendObservations": (stream, send_observations, ObservationPart),
        "GetActions": (unary, get_actions, Empty),
    }
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: kind(guarded(answer), request.FromString, lambda reply: reply.SerializeToString())
            for name, (kind, answer, request) in methods.items()
        },
    )


async def _abort(context: Any, error: Exception) -> None:
    """Ends a call that raised with the sentence for its client."""
    if not isinstance(error, InputError | ServingError):
        log.error("A call failed", exc_info=error)
        error = InternalError("The server failed; its log has details.")
    await context.abort(_status(error), str(error))


def _status(error: Exception) -> grpc.StatusCode:
    """The client repeats calls that end with UNAVAILABLE, and logs the others' sentence."""
    codes = grpc.StatusCode
    match error:
        case InputError():
            return codes.INVALID_ARGUMENT
        case Busy():
            return codes.RESOURCE_EXHAUSTED
        case Draining():
            return codes.UNAVAILABLE
        case ServingError():
            return codes.ABORTED
    return codes.INTERNAL

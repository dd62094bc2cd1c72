"""LeRobot's messages and calls over gRPC, as in the transport/services.proto of LeRobot 0.6."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from spatialvla.common.extras import needs_extra
from spatialvla.errors import InputError
from spatialvla.serving.failures import Busy, Draining, InternalError, ServingError
from spatialvla.serving.lerobot.uploads import (
    Join,
    Upload,
    Uploads,
    address_of_peer,
    join_parts,
    only_part,
)

with needs_extra("lerobot-server", "The protocol lerobot"):
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

log = logging.getLogger(__name__)
SERVICE = "transport.AsyncInference"
_MOST_CALLS_OF_A_CONNECTION = 8

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

    async def send_observations(self, upload: Upload, peer: str) -> None:
        """The bytes of one pickled TimedObservation, which the call may keep: it closes their upload."""

    async def get_actions(self, peer: str) -> bytes:
        """A pickled list of TimedAction, or nothing where none is ready in time."""

    def refused(self, error: Exception, peer: str) -> None:
        """A call ended with an error, for which a client is to blame."""


class Listener(Protocol):
    """A running gRPC server."""

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, and ends those under way after `grace` seconds, None for at once."""


async def listen(calls: Calls, uploads: Uploads, host: str, port: int) -> tuple[Listener, int]:
    """A running gRPC server and its port. Raises InputError where the address cannot be bound.

    uploads: where requests are received. port: 0 takes a free one.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", uploads.most_bytes_a_part),
            ("grpc.max_concurrent_streams", _MOST_CALLS_OF_A_CONNECTION),
            ("grpc.so_reuseport", 0),
        ],
    )
    server.add_generic_rpc_handlers((_handlers(calls, uploads),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError:
        raise InputError(f"{address} cannot be bound; choose another --port.") from None
    await server.start()
    return server, bound


def _handlers(calls: Calls, uploads: Uploads) -> Any:
    """gRPC's handlers for a server's calls.

    All are told to gRPC as calls of many requests, as it leaves those to us as they come: of calls that it takes
    for calls of one request, it holds the unfinished ones itself, without end.
    """

    def guarded(answer: Callable[[Upload, str], Awaitable[Any]], join: Join) -> Any:
        async def handle(requests: Any, context: Any) -> Any:
            peer = context.peer()
            try:
                return await answer(await uploads.receive(requests, join, address_of_peer(peer)), peer)
            except Exception as error:
                await _abort(calls, context, error)

        return handle

    async def ready(upload: Upload, peer: str) -> Any:
        upload.close()
        await calls.ready(peer)
        return Empty()

    async def send_policy_instructions(upload: Upload, peer: str) -> Any:
        upload.close()
        await calls.send_policy_instructions(upload.data, peer)
        return Empty()

    async def send_observations(upload: Upload, peer: str) -> Any:
        await calls.send_observations(upload, peer)
        return Empty()

    async def get_actions(upload: Upload, peer: str) -> Any:
        upload.close()
        return Actions(data=await calls.get_actions(peer))

    methods = {
        "Ready": (ready, Empty, only_part),
        "SendPolicyInstructions": (send_policy_instructions, PolicySetup, only_part),
        "SendObservations": (send_observations, ObservationPart, join_parts),
        "GetActions": (get_actions, Empty, only_part),
    }
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: grpc.stream_unary_rpc_method_handler(
                guarded(answer, join), request.FromString, lambda reply: reply.SerializeToString()
            )
            for name, (answer, request, join) in methods.items()
        },
    )


async def _abort(calls: Calls, context: Any, error: Exception) -> None:
    """Ends a call that raised with the sentence for its client."""
    if isinstance(error, InputError | ServingError):
        calls.refused(error, context.peer())
    else:
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

"""The openpi protocol (websocket and msgpack), for the unmodified `openpi-client` and for our own.

On connect the server sends its metadata. Then each message of the client is an observation, each answer a map
with `actions`. After an error comes a text frame and the connection is closed; a client that numbers its
requests (`request_id`) is told by a map with `error` instead, and may go on.
"""

from __future__ import annotations

from spatialvla.serving.engine.client_inputs import ClientInputs
from spatialvla.serving.engine.client_interface import ClientInterface
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.service import PlannedService, ProtocolOptions, Service
from spatialvla.serving.guard.websocket import GuardedConnection
from spatialvla.serving.openpi.connection import OpenPiClient
from spatialvla.serving.openpi.messages import metadata
from spatialvla.serving.websocket.server import WebsocketServer, run_until_told


class OpenPiServer(WebsocketServer):
    """Serves one policy to openpi clients. pad_to: steps that they want at least."""

    def __init__(self, service: Service, mapping: ClientMapping, *, pad_to: int = 0) -> None:
        """Raises InputError where the policy and these clients do not fit, as `ClientInterface`."""
        interface = ClientInterface(mapping, service)
        greeting = metadata(service, interface, pad_to)

        def welcome(socket: GuardedConnection) -> OpenPiClient:
            return OpenPiClient(socket, service, interface, greeting, pad_to=pad_to)

        super().__init__(service, welcome)


def check(options: ProtocolOptions, planned: PlannedService) -> None:
    """Raises InputError for what can be refused without the policy's weights."""
    options.mapping.check_actions(planned.units, planned.limits)
    ClientInputs(options.mapping, planned.inputs, planned.calibration, planned.require_all)


def run(service: Service, options: ProtocolOptions) -> None:
    """Serves until SIGTERM or SIGINT, then drains: requests under way are answered, none is accepted."""
    run_until_told(service, lambda: OpenPiServer(service, options.mapping, pad_to=options.pad_to))

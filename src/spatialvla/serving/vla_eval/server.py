"""vla-eval's protocol at a websocket, for `vla-eval run`: the messages of the harness, our own way of serving.

Its client knows neither API keys nor TLS: bind to loopback.
"""

from __future__ import annotations

import json

from spatialvla.serving.engine.service import PlannedService, ProtocolOptions, Service
from spatialvla.serving.status_pages import Page
from spatialvla.serving.vla_eval.connection import HarnessClient
from spatialvla.serving.vla_eval.conventions import benchmark_called
from spatialvla.serving.vla_eval.model_server import VlaEvalServer, check_limits
from spatialvla.serving.vla_eval.needs import calibration_for, standing_cameras
from spatialvla.serving.websocket.server import WebsocketServer, run_until_told

_JSON = "application/json"


def check(options: ProtocolOptions, planned: PlannedService) -> None:
    """Raises InputError for what can be refused without the policy's weights."""
    planned.access.check_none("vla-eval")
    check_limits(planned.limits)
    benchmark_called(options.benchmark).check_policy(planned.units, unknown_units=options.unknown_units)
    standing_cameras(planned.inputs, calibration_for(planned))


def run(service: Service, options: ProtocolOptions) -> None:
    """Serves until SIGTERM or SIGINT, then drains: requests under way are answered, none is accepted.

    Raises InputError for a benchmark that is unknown or not of the policy's robot, and where the service asks
    for keys or TLS.
    """
    service.access.check_none("vla-eval")
    model = VlaEvalServer(service, benchmark_called(options.benchmark), unknown_units=options.unknown_units)
    run_until_told(service, lambda: websocket_server(service, model))


def websocket_server(service: Service, model: VlaEvalServer) -> WebsocketServer:
    """The server of a harness's shards. It asks none whether it is there: a simulator may be silent for long."""

    def page(path: str) -> Page | None:
        """The harness's own pages. What it may set at other servers is told, and only whoever started us sets it."""
        match path.partition("?")[::2]:
            case "/health", _:
                ready = service.engine.ready
                return Page(200 if ready else 503, _packed({"status": "ok" if ready else "stopping"}), _JSON)
            case "/config", "":
                return Page(
                    200, _packed({"config": {"max_batch_size": service.engine.settings.max_batch}}), _JSON
                )
            case "/config", _:
                return Page(403, _packed({"errors": ["start the server with --batching.max-batch"]}), _JSON)
        return None

    return WebsocketServer(
        service, lambda socket: HarnessClient(socket, service, model), pages=page, ping_seconds=None
    )


def _packed(content: object) -> bytes:
    return json.dumps(content).encode() + b"\n"

"""`spatialvla serve`: a policy as a server for robots and for benchmarks, in the protocol their clients speak."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spatialvla.cli.policy_options import FlatPolicyOptions
from spatialvla.cli.verb import Verb
from spatialvla.errors import InputError

if TYPE_CHECKING:
    from spatialvla.serving.engine.service import Service

_PROTOCOLS = {"openpi": "openpi", "vla-eval": "vla_eval", "lerobot": "lerobot"}
_PORTS = {"openpi": 8000, "vla-eval": 8000, "lerobot": 8080}


@dataclass(frozen=True)
class Traffic:
    max_message_mb: float = 16.0
    """Largest message, in MiB."""

    max_image: int = 2048
    """Longest side of an image, in pixels."""

    max_connections: int = 256
    """Clients at a time."""

    rate: float = 200.0
    """Requests a second of one connection; a faster one is made to wait."""

    request_timeout: float = 30.0
    """Seconds that a request may wait for the model."""

    idle_timeout: float = 3600.0
    """Seconds of silence after which a client is let go."""

    drain_timeout: float = 30.0
    """Seconds for the requests under way when the server is told to stop."""


@dataclass(frozen=True)
class Batching:
    max_batch: int = 16
    """Requests in one inference."""

    max_queue: int = 128
    """Requests waiting at a time; one more is told that the server is busy."""


@dataclass(frozen=True)
class Serve(Verb):
    """Serve a policy to robots or to a benchmark's harness."""

    options: FlatPolicyOptions

    protocol: Literal["openpi", "vla-eval", "lerobot"] = "openpi"
    """openpi: websocket and msgpack, also for our own client. vla-eval, lerobot: as those projects' clients speak."""

    host: str = "127.0.0.1"
    """Address to listen on; any but loopback needs --api-keys and --tls-cert."""

    port: int | None = None
    """8000, and 8080 for lerobot, unless given."""

    mapping: str | None = None
    """What the client calls its inputs. openpi: plain (default), libero, droid, bridge or a YAML file;
    vla-eval: its benchmark; lerobot: its robot."""

    limits: str | None = None
    """What the robot may be told in one step: libero, widowx, franka or a YAML file; the mapping's unless given."""

    execution: Literal["chunk", "receding", "ensemble"] = "chunk"
    """All of a chunk, its first --steps actions, or one action averaged over recent chunks."""

    steps: int = 1
    """Actions to send of each chunk with --execution receding."""

    pad_chunk: Literal["none", "hold"] = "none"
    """For openpi clients that insist on longer chunks than the policy's: append steps that stand still."""

    pad_to: int | None = None
    """Steps of a padded chunk; what the mapping's stock client insists on unless given."""

    api_keys: Path | None = None
    """File with an API key a line, readable by its owner alone; or set SPATIALVLA_API_KEY."""

    tls_cert: Path | None = None
    """Certificate chain, PEM."""

    tls_key: Path | None = None
    """The certificate's private key, PEM."""

    insecure_public_bind: bool = False
    """Listen on a public address without keys or TLS: whoever reaches it moves the robot."""

    threads: int | None = None
    """Threads of the model on a CPU; all cores but one unless given, which is left to the clients' messages."""

    metrics_port: int | None = None
    """A port of its own for /healthz and /metrics. openpi has them on its port, too."""

    traffic: Traffic = field(default_factory=Traffic)
    batching: Batching = field(default_factory=Batching)

    def run(self) -> None:
        try:
            protocol = import_module(f"spatialvla.serving.{_PROTOCOLS[self.protocol]}.server")
            from spatialvla.serving.http import pages
        except ImportError as error:
            raise InputError(
                f"Serving needs {error.name}; install spatialvla[serve], and for --protocol vla-eval that harness."
            ) from None
        logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
        choices = self._choices()
        service = self._service()
        extra = (
            pages(service, self.metrics_port) if self.metrics_port is not None else contextlib.nullcontext()
        )
        with extra:
            protocol.run(service, *choices)

    def _choices(self) -> tuple[object, ...]:
        """What the protocol is told beside the service; checked before the model is loaded."""
        if self.protocol != "openpi":
            if self.pad_chunk != "none":
                raise InputError("--pad-chunk is for openpi clients.")
            return () if self.mapping is None else (self.mapping,)
        from spatialvla.serving.engine.client_mapping import Mapping
        from spatialvla.serving.engine.padding import Padding

        mapping = Mapping.load(self.mapping or "plain")
        if self.pad_chunk == "none":
            return (mapping,)
        if self.execution != "chunk":
            raise InputError("Only whole chunks are padded; leave out --execution or --pad-chunk.")
        if not (self.pad_to or mapping.horizon):
            raise InputError(f"The mapping {mapping.name!r} insists on no length; say --pad-to STEPS.")
        return mapping, Padding(self.pad_chunk, self.pad_to or mapping.horizon)

    def _service(self) -> Service:
        import torch

        from spatialvla.common.cpu import tune_cpu
        from spatialvla.execution import Execution
        from spatialvla.serving.engine.batching import EngineSettings
        from spatialvla.serving.engine.client_mapping import Mapping
        from spatialvla.serving.engine.service import service_for
        from spatialvla.serving.guard.access import security
        from spatialvla.serving.guard.limits import Limits
        from spatialvla.serving.guard.traffic import TrafficLimits

        traffic = vars(self.traffic).copy()
        traffic["max_message"] = int(traffic.pop("max_message_mb") * 2**20)
        robot = self.limits
        if robot is None and self.protocol == "openpi":
            robot = Mapping.load(self.mapping or "plain").limits
        checked = security(
            self.host,
            api_keys=self.api_keys,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            insecure_public_bind=self.insecure_public_bind,
        )
        limits = Limits.load(robot) if robot else Limits()
        traffic_limits = TrafficLimits(**traffic)
        settings = EngineSettings(self.batching.max_batch, self.batching.max_queue)
        tune_cpu()
        torch.set_num_threads(self.threads or max(1, (os.cpu_count() or 1) - 1))
        return service_for(
            self.options.load(Execution(self.execution, self.steps)),
            name=Path(self.options.policy).name,
            host=self.host,
            port=_PORTS[self.protocol] if self.port is None else self.port,
            limits=limits,
            security=checked,
            traffic=traffic_limits,
            settings=settings,
        )

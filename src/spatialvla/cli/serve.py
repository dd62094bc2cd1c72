"""`spatialvla serve`: a policy as a server for robots and benchmarks, in their clients' protocols."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import tyro

from spatialvla.cli.arguments import parse_options, read_first
from spatialvla.cli.policy_options import FlatPolicyOptions, PolicyOptions
from spatialvla.cli.rerun_option import destination
from spatialvla.cli.verb import Verb
from spatialvla.common.extras import needs_extra
from spatialvla.errors import InputError
from spatialvla.execution import Execution
from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.guard.sureness import StopAbove
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.logs import LogFormat, log_to_stderr

if TYPE_CHECKING:
    from spatialvla.serving.engine.service import PlannedService, ProtocolOptions, Service
    from spatialvla.serving.guard.access import Access

    Check = Callable[[ProtocolOptions, PlannedService], None]

Protocol = Literal["openpi", "vla-eval", "lerobot"]

_EXTRAS: Mapping[Protocol, str] = {"openpi": "serve", "vla-eval": "vla-eval", "lerobot": "lerobot-server"}
_PORTS: Mapping[Protocol, int] = {"openpi": 8000, "vla-eval": 8000, "lerobot": 8080}
_LAST_PORT = 65_535
_MAPPINGS: Mapping[Protocol, str] = {"openpi": "plain", "vla-eval": "plain", "lerobot": "lerobot"}


@dataclass(frozen=True)
class _ChosenProtocol:
    protocol: Protocol = "openpi"


@dataclass(frozen=True, kw_only=True)
class Serve(Verb):
    """Serve a policy to robots or to a benchmark's harness."""

    options: FlatPolicyOptions

    protocol: Protocol
    """openpi: websocket and msgpack, for our own client, too. vla-eval, lerobot: for those projects' own."""

    host: str = "127.0.0.1"
    """Address to listen on; any but loopback needs --api-keys and --tls-cert."""

    port: int
    """Port to listen on; 0 takes a free one."""

    mapping: str
    """Names of a client's inputs: plain, libero, droid, bridge, lerobot or a YAML file; vla-eval has its own."""

    benchmark: str | None
    """Whose conventions vla-eval's clients have: libero, simpler_widowx or simpler_google_robot."""

    limits: str | None = None
    """The most a robot may be told in a step: libero, widowx, franka, droid or a YAML file; else the mapping's."""

    uncertainty: bool = False
    """Send with each chunk how sure the policy was of it, and count that; takes one pass of its decoder more."""

    unknown_units: bool = False
    """Serve a policy though nobody says what 1 in its actions is, how it turns, or in whose frame."""

    calibration: Path | None = None
    """The robot's calibration file: K and place of cameras that clients say nothing of."""

    require_all: bool = False
    """Refuse observations without all of the policy's cameras and its state; else it does without what is missing."""

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

    threads: int = field(default_factory=lambda: max(1, (os.cpu_count() or 1) - 1))
    """Threads of the model on a CPU; one core is best left to the clients' messages."""

    metrics_port: int | None = None
    """A port of its own for /healthz and /metrics. openpi has them on its port, too."""

    dashboard: bool = False
    """Serve a web page that shows what the policy sees and decides, for browsers with one of the API keys."""

    dashboard_host: str = "127.0.0.1"
    """Address of that page; any but loopback needs --api-keys and --tls-cert, as --host does."""

    dashboard_port: int = 8010
    """Port of that page; 0 takes a free one."""

    rerun: str | None = None
    """Record each client's episodes for Rerun: a folder, viewer to open one, or the address of one that runs."""

    log_format: LogFormat = "text"
    """How the log is written to stderr: a line of text, or a JSON object, for each connection and refusal."""

    execution: Execution = field(default_factory=Execution)
    stop_above: StopAbove = field(default_factory=StopAbove)
    traffic: TrafficLimits = field(default_factory=TrafficLimits)
    batching: EngineSettings = field(default_factory=EngineSettings)

    @classmethod
    def parse(cls, arguments: Sequence[str], program: str) -> Self:
        """Reads --protocol first, because port, mapping and benchmark depend on it."""
        chosen = read_first(_ChosenProtocol, arguments, program)
        default = cls(
            options=PolicyOptions(policy=tyro.MISSING),
            protocol=chosen.protocol,
            port=_PORTS[chosen.protocol],
            mapping=_MAPPINGS[chosen.protocol],
            benchmark="libero" if chosen.protocol == "vla-eval" else None,
        )
        return parse_options(cls, arguments, program, default)

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT. Raises InputError first for options that do not fit."""
        with needs_extra(_EXTRAS[self.protocol], "Serving"):
            check, serve = self._protocol()
            from spatialvla.serving.recorder import recorded
            from spatialvla.serving.status_pages import pages
        if self.threads < 1:
            raise InputError(f"--threads must be at least 1, not {self.threads}.")
        log_to_stderr(self.log_format)
        watched, recorded_to = self._dashboard(), destination(self.rerun)
        options = self._options()
        service = self._service(options, check)
        print(service.limits.describe(), file=sys.stderr, flush=True)
        if self.stop_above.asked:
            print(self.stop_above.describe(), file=sys.stderr, flush=True)
        with contextlib.ExitStack() as beside:
            if self.metrics_port is not None:
                beside.enter_context(pages(service, self.metrics_port))
            if watched is not None:
                service = beside.enter_context(watched(service))
            if recorded_to is not None:
                service = beside.enter_context(recorded(service, recorded_to))
            serve(service, options)

    def _protocol(self) -> tuple[Check, Callable[[Service, ProtocolOptions], None]]:
        """The protocol's `check` and `run`; what they need is imported with them."""
        match self.protocol:
            case "openpi":
                from spatialvla.serving.openpi.server import check, run
            case "vla-eval":
                from spatialvla.serving.vla_eval.server import check, run
            case "lerobot":
                from spatialvla.serving.lerobot.server import check, run
        return check, run

    def _dashboard(self) -> Callable[[Service], AbstractContextManager[Service]] | None:
        """What serves the page beside a service, and gives the service that it watches; None for no page.

        What it needs is imported, and what it may not do refused, before the policy is loaded.
        """
        if not self.dashboard:
            return None
        from spatialvla.serving.dashboard.server import watched

        access = self._access(self.dashboard_host)
        return partial(watched, host=self.dashboard_host, port=self.dashboard_port, access=access)

    def _access(self, host: str) -> Access:
        """What whoever connects to an address of this machine has to have."""
        from spatialvla.serving.guard.access import Access

        return Access.for_host(
            host,
            api_keys=self.api_keys,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            insecure_public_bind=self.insecure_public_bind,
        )

    def _options(self) -> ProtocolOptions:
        from spatialvla.serving.engine.client_mapping import ClientMapping
        from spatialvla.serving.engine.service import ProtocolOptions
        from spatialvla.serving.vla_eval.conventions import BENCHMARKS, benchmark_called

        if self.protocol == "vla-eval" and self.mapping in BENCHMARKS:
            raise InputError(f"{self.mapping} is a benchmark of vla-eval; say --benchmark {self.mapping}.")
        if self.protocol != "vla-eval" and self.benchmark is not None:
            raise InputError("--benchmark is for vla-eval's clients; leave it out.")
        if self.execution.mode == "async":
            raise InputError(
                "A client that acts asynchronously asks for whole chunks; leave out --execution.mode async."
            )
        mapping = ClientMapping.load(self.mapping)
        benchmark = benchmark_called(self.benchmark or "libero").name
        padded = self._padded_steps(mapping.name, mapping.horizon)
        return ProtocolOptions(mapping, benchmark, padded, self.unknown_units)

    def _padded_steps(self, mapping: str, horizon: int) -> int:
        """Steps that a chunk is padded to, 0 for none. horizon: those that the stock client insists on."""
        if self.pad_chunk == "none":
            if self.pad_to is not None:
                raise InputError("--pad-to says how far chunks are padded; add --pad-chunk hold.")
            return 0
        if self.protocol != "openpi":
            raise InputError("--pad-chunk is for openpi clients; leave it out.")
        if self.execution.mode != "chunk":
            raise InputError("Only whole chunks are padded; leave out --execution.mode or --pad-chunk.")
        if not (self.pad_to or horizon):
            raise InputError(f"The mapping {mapping!r} insists on no length; say --pad-to STEPS.")
        return self.pad_to or horizon

    def _service(self, options: ProtocolOptions, check: Check) -> Service:
        import torch

        from spatialvla.actions.fitting import check_fit
        from spatialvla.actions.units import UNKNOWN
        from spatialvla.common.cpu import tune_cpu
        from spatialvla.geometry.robot_calibration import RobotCalibration
        from spatialvla.model.loading import stored_config
        from spatialvla.processor import Processor
        from spatialvla.serving.engine.policy_inputs import PolicyInputs
        from spatialvla.serving.engine.service import PlannedService, checked_limits, service_for
        from spatialvla.serving.guard.limits import Limits

        access = self._access(self.host)
        # An empty name, as of a variable that is not set, is no robot without limits.
        robot = options.mapping.limits if self.limits is None else self.limits
        limits = Limits() if robot is None else Limits.load(robot)
        calibration = None if self.calibration is None else RobotCalibration.load(self.calibration)
        _check_ports(
            {
                "--port": (self.host, self.port),
                "--metrics-port": (self.host, self.metrics_port),
                "--dashboard-port": (self.dashboard_host, self.dashboard_port if self.dashboard else None),
            }
        )
        # Loading the weights takes longest: what can be refused without them is refused before.
        processor = Processor.from_pretrained(self.options.policy)
        dataset = processor.dataset_for(self.options.dataset)
        fitting = checked_limits(processor, dataset, limits, self.stop_above, self.uncertainty)
        # A robot is not moved in unknown units without a word of it.
        units = fitting.units.filled(processor.action_units(dataset))
        check_fit(units, UNKNOWN, "the robot", unknown_units=self.unknown_units)
        config = stored_config(self.options.policy, self.options.base)
        inputs = PolicyInputs.stored(config, processor, dataset)
        check(options, PlannedService(inputs, units, fitting, access, calibration, self.require_all))
        tune_cpu()
        torch.set_num_threads(self.threads)
        return service_for(
            self.options.load(self.execution, uncertainty=self.uncertainty, processor=processor),
            name=Path(self.options.policy).name,
            host=self.host,
            port=self.port,
            limits=limits,
            access=access,
            traffic=self.traffic,
            settings=self.batching,
            calibration=calibration,
            require_all=self.require_all,
            stop_above=self.stop_above,
        )


def _check_ports(addresses: Mapping[str, tuple[str, int | None]]) -> None:
    """Raises InputError where one cannot be listened on, by another program or another option.

    addresses: option -> host and port, whose server begins once the policy is loaded; no port for no server.
    """
    with contextlib.ExitStack() as held:
        for option, (host, port) in addresses.items():
            if port is None:
                continue
            if not 0 <= port <= _LAST_PORT:
                raise InputError(f"{option} is {port}; ports go from 0 to {_LAST_PORT}.")
            try:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                held.enter_context(socket.create_server((host, port), family=family))
            except OSError as error:
                raise InputError(
                    f"{option} {port} cannot be listened on at {host} ({error.strerror}); choose another."
                ) from None

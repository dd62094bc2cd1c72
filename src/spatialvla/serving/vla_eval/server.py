"""vla-eval's protocol: a model server on the harness's own base class, for `vla-eval run`.

The harness's own server code carries the messages. It knows neither API keys nor limits of size: bind to
loopback.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import anyio
from anyio.to_thread import run_sync

from spatialvla.common.extras import needs_extra
from spatialvla.errors import InputError
from spatialvla.execution import WHOLE_CHUNKS, Executor
from spatialvla.serving.engine.service import ProtocolOptions, Service
from spatialvla.serving.engine.session import Session
from spatialvla.serving.vla_eval.commands import Commands
from spatialvla.serving.vla_eval.conventions import HarnessBenchmark, benchmark_called

with needs_extra("vla-eval", "The protocol vla-eval"):
    from vla_eval.model_servers.base import ModelServer, SessionContext
    from vla_eval.model_servers.serve import serve_async
    from vla_eval.specs import IMAGE_RGB, LANGUAGE, DimSpec

_LAST_ANSWERS = 5.0  # seconds for those that were inferred while draining to reach their clients


@dataclass
class _Episode:
    task: Mapping[str, Any] | None
    session: Session
    commands: Commands
    checked: bool = False


class VlaEvalServer(ModelServer):
    """Serves one policy to all shards of a harness; the engine makes batches of those that wait.

    Also within one process:
    `vla_eval.evaluate(VlaEvalServer(service_for(policy), LIBERO), config, docker=False)`.
    """

    def __init__(
        self,
        service: Service,
        benchmark: HarnessBenchmark,
        *,
        own_camera: bool | None = None,
        unknown_units: bool = False,
    ) -> None:
        """benchmark: whose conventions hold. own_camera: use its intrinsics, not the checkpoint's.

        None uses them where the checkpoint knows its dataset's camera. One that does not, as the published
        ones do not know the Google Robot's, was trained with one camera for all, and its published evaluation
        went on with that. Where the benchmark has a published ensemble and the policy executes whole chunks,
        its default, the ensemble takes their place. unknown_units: serve though nobody says what 1 in the
        actions is. Raises InputError where the policy's actions are another
        robot's, and for limits with a workspace.
        """
        policy = service.policy
        benchmark.check_policy(service.units, unknown_units=unknown_units)
        if service.limits.workspace is not None:
            raise InputError(
                "vla-eval's harness does not tell where the gripper is, so no workspace can be kept; choose "
                "limits without one."
            )
        self._service = service
        self._benchmark = benchmark
        self._own_camera = policy.dataset in policy.processor.cameras if own_camera is None else own_camera
        self._episodes: WeakKeyDictionary[SessionContext, _Episode] = WeakKeyDictionary()
        self.unanswered = 0

    # ------------------------------------------------------------ what it is

    def get_action_spec(self) -> dict[str, DimSpec]:
        """What leaves, under the harness's own labels; it compares them with those of its benchmark."""
        specs = {}
        for name, dims, (label, low, high) in (
            ("position", 3, self._benchmark.position_spec),
            ("rotation", 3, self._benchmark.rotation_spec),
            ("gripper", 1, self._benchmark.gripper_spec),
        ):
            specs[name] = DimSpec(name, dims, label, (low, high))
        return specs

    def get_observation_spec(self) -> dict[str, DimSpec]:
        """What has to come."""
        picture = replace(IMAGE_RGB, description=self._benchmark.orientation)
        return {self._benchmark.image: picture, "language": LANGUAGE}

    def get_observation_params(self) -> dict[str, Any]:
        """What the harness hands to its benchmark's constructor where its configuration says nothing."""
        return dict(self._benchmark.parameters)

    @property
    def max_batch_size(self) -> int:
        """Requests in one inference; the harness reads and sets it at /config."""
        return self._service.engine.settings.max_batch

    @max_batch_size.setter
    def max_batch_size(self, size: int) -> None:
        engine = self._service.engine
        engine.settings = replace(engine.settings, max_batch=size)

    # ---------------------------------------------------------------- episodes

    async def on_episode_start(self, config: dict[str, Any], ctx: SessionContext) -> None:
        """The harness makes a new context for each episode."""
        self._episodes[ctx] = _Episode(config.get("task"), self._session(), Commands(self._benchmark))

    async def on_observation(self, obs: dict[str, Any], ctx: SessionContext) -> None:
        """Answers one observation with one command.

        Raises InputError or ServingError, whose sentence the harness's server sends in place of the command.
        Mismatches
        are raised here and not when the episode starts: the harness expects an answer to observations only.
        """
        self.unanswered += 1
        try:
            await ctx.send_action({"actions": await self._command(obs, ctx)})
        finally:
            self.unanswered -= 1

    async def _command(self, obs: dict[str, Any], ctx: SessionContext) -> Any:
        episode = self._episodes.get(ctx)
        if episode is None:
            raise InputError("No episode has begun on this connection; send EPISODE_START first.")
        if not episode.checked:
            self._benchmark.check_task(episode.task)
            episode.checked = True
        if not episode.commands:
            observation = self._benchmark.observation(obs, own_camera=self._own_camera)
            timeout = self._service.traffic.request_timeout
            decision = await episode.session.act(observation, timeout=timeout)
            episode.commands.extend(decision.actions)
        return episode.commands.next()

    def _session(self) -> Session:
        published = self._benchmark.execution
        if self._service.policy.execution != WHOLE_CHUNKS or published == WHOLE_CHUNKS:
            return self._service.session()
        return self._service.session(Executor(published))


def run(service: Service, options: ProtocolOptions) -> None:
    """Serves until SIGTERM or SIGINT, then drains: requests under way are answered, none is accepted.

    Raises InputError for a benchmark that is unknown or not of the policy's robot, and where the service asks
    for keys or TLS.
    """
    if service.access.digests or service.access.tls:
        raise InputError(
            "vla-eval's client knows neither API keys nor TLS; serve it on loopback without them, and reach "
            "it from elsewhere through a tunnel."
        )
    server = VlaEvalServer(service, benchmark_called(options.benchmark), unknown_units=options.unknown_units)
    anyio.run(_serve, server, service)


async def _serve(server: VlaEvalServer, service: Service) -> None:
    async with anyio.create_task_group() as tasks:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            port = await tasks.start(serve_async, server, service.host, service.port)
            print(f"Ready on ws://{service.host}:{port}", flush=True)
            async for _ in signals:
                break
            await run_sync(service.engine.drain, service.traffic.drain_timeout)
            with anyio.move_on_after(_LAST_ANSWERS):
                while server.unanswered:
                    await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

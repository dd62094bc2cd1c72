"""A policy as a model server of vla-eval: its own server's, or the harness's within one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from spatialvla.common.extras import needs_extra
from spatialvla.errors import InputError
from spatialvla.execution import WHOLE_CHUNKS, Executor
from spatialvla.serving.engine.service import Service
from spatialvla.serving.engine.session import Session
from spatialvla.serving.guard.limits import Limits
from spatialvla.serving.vla_eval.commands import Commands
from spatialvla.serving.vla_eval.conventions import HarnessBenchmark
from spatialvla.serving.vla_eval.needs import calibration_for, needs_of

with needs_extra("vla-eval", "The protocol vla-eval"):
    from vla_eval.model_servers.base import ModelServer, SessionContext
    from vla_eval.specs import IMAGE_RGB, LANGUAGE, DimSpec


def check_limits(limits: Limits) -> None:
    """Raises InputError for limits that cannot be kept with what the harness tells."""
    if limits.workspace is not None:
        raise InputError(
            "vla-eval's harness does not tell where the gripper is, so no workspace can be kept; choose "
            "limits without one."
        )


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
        actions is. Cameras and state that the benchmark does not have are masked, unless all are required.
        Raises InputError where the policy's actions are another robot's, where it needs a camera's extrinsics
        that no calibration tells, where what is required is not there, and for limits with a workspace.
        """
        policy = service.policy
        benchmark.check_policy(service.units, unknown_units=unknown_units)
        check_limits(service.limits)
        self._service = service
        self._benchmark = benchmark
        self._calibration = calibration_for(service)
        if own_camera is None:
            own_camera = policy.dataset in policy.processor.cameras
        self._needs = needs_of(service, benchmark, self._calibration, own_camera)
        self._picture_sizes = benchmark.sizes(self._needs)
        self._episodes: WeakKeyDictionary[SessionContext, _Episode] = WeakKeyDictionary()

    @property
    def benchmark(self) -> HarnessBenchmark:
        """Whose conventions hold."""
        return self._benchmark

    @property
    def picture_sizes(self) -> Mapping[str, tuple[int, int]]:
        """Height and width of the pictures that are looked at, by their keys."""
        return self._picture_sizes

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
        specs = {**dict.fromkeys(self._picture_sizes, picture), "language": LANGUAGE}
        if state := self._needs.state:
            specs["state"] = DimSpec("state", state.size, state.layout)
        return specs

    def get_observation_params(self) -> dict[str, Any]:
        """What the harness hands to its benchmark's constructor where its configuration says nothing."""
        return self._benchmark.parameters_for(self._needs)

    # ---------------------------------------------------------------- episodes

    async def on_episode_start(self, config: dict[str, Any], ctx: SessionContext) -> None:
        """The harness makes a new context for each episode."""
        self.begin(config, ctx)

    async def on_observation(self, obs: dict[str, Any], ctx: SessionContext) -> None:
        """Answers one observation with one command, as the harness's own server asks for it.

        Raises as `reply`; that server sends the sentence in place of the command.
        """
        await ctx.send_action(await self.reply(obs, ctx))

    def begin(self, config: Mapping[str, Any], ctx: SessionContext, address: str = "") -> None:
        """A new episode. address: of the client's machine."""
        self._episodes[ctx] = _Episode(config.get("task"), self._session(address), Commands(self._benchmark))

    def end(self, ctx: SessionContext) -> None:
        """An episode is over, if one was going on."""
        if (episode := self._episodes.pop(ctx, None)) is not None:
            episode.session.end()

    async def reply(self, obs: Mapping[str, Any], ctx: SessionContext) -> dict[str, Any]:
        """What follows an observation: the command `actions`, (7,) float32.

        Where it is a chunk's first and the policy tells how sure it was of that, there is `uncertainty`, too, with
        `entropy` (T, 3) and `spread_mm` (T,); benchmarks take the command and leave the rest.

        Raises InputError or ServingError. Mismatches are raised here and not when the episode begins: the
        harness expects an answer to observations only.
        """
        episode = self._episodes.get(ctx)
        if episode is None:
            raise InputError("No episode has begun on this connection; send EPISODE_START first.")
        if not episode.checked:
            self._benchmark.check_task(episode.task)
            episode.checked = True
        told: dict[str, Any] = {}
        if not episode.commands:
            observation = self._benchmark.observation(obs, self._needs)
            if self._calibration is not None:
                observation = self._calibration.observation(observation, self._needs.first)
            timeout = self._service.traffic.request_timeout
            decision = await episode.session.act(observation, timeout=timeout)
            episode.commands.extend(decision.actions)
            if decision.uncertainty is not None:
                told = {"uncertainty": decision.uncertainty.told()}
        return {"actions": episode.commands.next(), **told}

    def _session(self, address: str) -> Session:
        published = self._benchmark.execution
        if self._service.policy.execution != WHOLE_CHUNKS or published == WHOLE_CHUNKS:
            return self._service.session(address=address)
        return self._service.session(Executor(published), address=address)

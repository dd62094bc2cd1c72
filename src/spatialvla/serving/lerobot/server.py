"""LeRobot's asynchronous inference over gRPC, for its unmodified robot client.

The client keeps a queue of actions and asks for more while it executes them. It sends pickles, which are
read without unpickling, and knows neither API keys nor TLS: bind to loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TypeVar

import numpy as np

from spatialvla.errors import InputError
from spatialvla.serving.engine.client_inputs import ClientInputs
from spatialvla.serving.engine.client_interface import ClientInterface
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.service import PlannedService, ProtocolOptions, Service
from spatialvla.serving.failures import Stale, outcome
from spatialvla.serving.guard.traffic import Throttle
from spatialvla.serving.lerobot.connection import RobotClient
from spatialvla.serving.lerobot.objects import read_object
from spatialvla.serving.lerobot.observation import (
    STATE,
    TimedObservation,
    has_numbers,
    read_observation,
    with_depth,
    with_state,
)
from spatialvla.serving.lerobot.reply import actions_pickle
from spatialvla.serving.lerobot.robot_features import check_features, names_of_numbers
from spatialvla.serving.lerobot.uploads import Upload, Uploads, address_of_peer
from spatialvla.serving.lerobot.wire import Listener, listen

log = logging.getLogger(__name__)

T = TypeVar("T")
_CONTROL_HZ = 30.0
_MOST_ROBOTS = 64


class LeRobotServer:
    """The calls of `wire.Calls` for any number of clients, told apart by their connections.

    mapping: names of the camera, the task and the state as the robot's configuration has them.
    control_hz: at which the client executes actions; the policy's own rate, or 30, unless given.
    wait: seconds until a client that asks for actions is told that there are none.
    similar: how near, in the units of the robot's state, an observation may be to the last one and be passed
    over; 0 passes over none. (LeRobot's own server passes over those nearer than 1, which suits joint angles
    in degrees.)
    Raises InputError where the mapping cannot keep the service's limits, or takes other actions.
    """

    def __init__(
        self,
        service: Service,
        mapping: ClientMapping,
        *,
        control_hz: float | None = None,
        wait: float = 2.0,
        similar: float = 0.0,
    ) -> None:
        control_hz = control_hz or service.units.control_hz or _CONTROL_HZ
        if not control_hz > 0:
            raise InputError(f"control_hz must be positive, got {control_hz}.")
        self._interface = ClientInterface(mapping, service)
        self._depths = [keys.depth for keys in self._interface.cameras.values() if keys.depth is not None]
        self._service = service
        self._step = 1 / control_hz
        self._wait = wait
        self._similar = similar
        self._uploads = Uploads(service.traffic)
        self._clients: OrderedDict[str, RobotClient] = OrderedDict()
        # Robots by the names of their numbers, which a client tells once, on its first connection.
        self._robots: OrderedDict[tuple[str, ...], None] = OrderedDict()

    async def start(self) -> tuple[Listener, int]:
        """The running gRPC server and its port. Raises InputError where the address cannot be bound."""
        return await listen(self, self._uploads, self._service.host, self._service.port)

    # ----------------------------------------------------------------- calls

    async def ready(self, peer: str) -> None:
        """Begins a new episode of this connection; its robot stays the same until it is told another."""
        old = self._clients.pop(peer, None)
        if old is None:
            self._client(peer)
            return
        old.forget()
        old.session.end()
        new = self._clients[peer] = self._new_client(peer)
        new.numbers, new.actions, new.began, new.answers = old.numbers, old.actions, old.began, old.answers

    async def send_policy_instructions(self, data: bytes, peer: str) -> None:
        """Checks that the robot has what the policy looks at. Which policy the client wants is only logged."""
        client = self._client(peer)
        config = await self._in_thread(client, partial(read_object, data, "RemotePolicyConfig"))
        features, steps = config.get("lerobot_features"), config.get("actions_per_chunk")
        if not isinstance(features, dict) or type(steps) is not int or steps < 1:
            raise InputError("The RemotePolicyConfig lacks lerobot_features or actions_per_chunk.")
        check_features(features, self._interface)
        client.numbers, client.actions = names_of_numbers(features.get(STATE)), steps
        self._remember_robot(client.numbers)
        log.debug(
            "%s asked for %.100s and is served %s.",
            peer,
            config.get("pretrained_name_or_path"),
            self._service.name,
        )

    async def send_observations(self, upload: Upload, peer: str) -> None:
        """Keeps the observation, if it is one to decide on, in place of one that still waits."""
        client = self._client(peer)
        try:
            await asyncio.sleep(client.throttle.delay())
            with self._service.engine.metrics.timed("decode"):
                read = await self._in_thread(client, partial(read_observation, upload.data))
                seen = self._with_state(read, client)
        except BaseException:
            upload.close()
            raise
        if self._is_news(seen, client):
            client.keep(seen, upload)
        else:
            upload.close()

    async def get_actions(self, peer: str) -> bytes:
        """The actions that follow the newest observation, nothing where none comes in time."""
        client = self._client(peer)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.arrived.wait(), self._wait)
        seen, message = client.take()
        if seen is None:
            return b""
        before, arrived = client.decided, client.began_to_arrive
        client.decided, client.state = seen.timestep, seen.message.get(STATE)
        try:
            decision = await client.session.act(
                self._interface.observation(with_depth(seen.message, self._depths)),
                position=self._interface.gripper_position(seen.message),
                fingertips=self._interface.fingertips(seen.message),
                timeout=min(self._service.traffic.request_timeout, self._time_left(arrived)),
            )
            self._time_left(arrived)
        except BaseException:
            client.decided = before  # else the client's next observation of this step would be passed over
            raise
        finally:
            if message is not None:
                message.close()
        client.answers += 1
        actions = self._interface.actions(decision.actions)[: client.actions]
        # The last action had been executed when the observation was made: these are for the steps after it.
        steps = np.arange(1, len(actions) + 1)
        return actions_pickle(
            actions, (seen.timestamp + (steps - 1) * self._step).tolist(), (seen.timestep + steps).tolist()
        )

    def refused(self, error: Exception, peer: str) -> None:
        """Tells in the log that a call ended with an error."""
        self._service.clients.refused(peer, outcome(error), str(error))

    # ---------------------------------------------------------------- inside

    def _client(self, peer: str) -> RobotClient:
        """The state of a connection; one that is heard of first in the middle of an episode gets a fresh one.

        Where there are too many, the one not heard of for the longest is forgotten.
        """
        traffic = self._service.traffic
        if peer not in self._clients:
            while len(self._clients) >= traffic.max_connections:
                name, gone = self._clients.popitem(last=False)
                gone.forget()
                gone.session.end()
                self._service.clients.gone(name, gone.answers, monotonic() - gone.began)
            self._clients[peer] = self._new_client(peer)
            self._service.clients.connected(peer)
            self._service.engine.metrics.connections.set(len(self._clients))
        self._clients.move_to_end(peer)
        return self._clients[peer]

    async def _in_thread(self, client: RobotClient, read: Callable[[], T]) -> T:
        """Reads what a client sent beside the loop, which has others to hear."""
        return await asyncio.wrap_future(self._service.engine.threads.submit(client.session.client, read))

    def _new_client(self, peer: str) -> RobotClient:
        traffic = self._service.traffic
        session = self._service.session(address=address_of_peer(peer))
        return RobotClient(session, Throttle(traffic.rate, traffic.burst))

    def _time_left(self, arrived: float) -> float:
        """Seconds for which an observation may still be acted on. Raises Stale where there are none.

        arrived: when its first byte did; a slow connection makes it old, too.
        """
        longest = self._service.traffic.longest_age
        age = monotonic() - arrived
        if age < longest:
            return longest - age
        self._service.engine.metrics.request("stale")
        raise Stale(
            f"The observation is {age:.1f} s old, more than {longest:g} s (--traffic.longest-age); nothing is "
            "sent for it, and the next one is decided on."
        )

    def _remember_robot(self, names: tuple[str, ...]) -> None:
        if names:
            self._robots[names] = None
            self._robots.move_to_end(names)
            if len(self._robots) > _MOST_ROBOTS:
                self._robots.popitem(last=False)

    def _with_state(self, seen: TimedObservation, client: RobotClient) -> TimedObservation:
        """The observation with the robot's state.

        A client that has come back on a new connection does not tell the names of its numbers again: its
        robot is the known one that has them, if there is only one.
        """
        if not client.numbers:
            fitting = [names for names in self._robots if has_numbers(seen.message, names)]
            client.numbers = fitting[0] if len(fitting) == 1 else ()
        return replace(seen, message=with_state(seen.message, client.numbers))

    def _is_news(self, seen: TimedObservation, client: RobotClient) -> bool:
        if seen.must_go or client.decided is None:
            return True
        state = seen.message.get(STATE)
        if state is None or client.state is None or state.shape != client.state.shape:
            return seen.timestep > client.decided
        moved = float(np.linalg.norm(state - client.state))
        return seen.timestep > client.decided and moved >= self._similar


def check(options: ProtocolOptions, planned: PlannedService) -> None:
    """Raises InputError for what can be refused without the policy's weights."""
    planned.access.check_none("LeRobot")
    options.mapping.check_actions(planned.units, planned.limits)
    ClientInputs(options.mapping, planned.inputs, planned.calibration, planned.require_all)


def run(service: Service, options: ProtocolOptions) -> None:
    """Serves until SIGTERM or SIGINT, then drains: requests under way are answered, none is accepted.

    Raises InputError where the service asks for keys or TLS.
    """
    service.access.check_none("LeRobot")
    server = LeRobotServer(service, options.mapping)

    async def serve_until_told() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        listener, port = await server.start()
        print(f"Ready on {service.host}:{port}", flush=True)
        await stop.wait()
        service.engine.leave()
        service.engine.stop_accepting()
        await asyncio.gather(
            listener.stop(service.traffic.drain_timeout), asyncio.sleep(service.traffic.stop_notice)
        )

    asyncio.run(serve_until_told())
    service.engine.drain(service.traffic.drain_timeout)

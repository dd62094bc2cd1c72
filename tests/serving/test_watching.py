"""Whoever looks on is told of every decision, whatever the protocol."""

import anyio
import lerobot_client
import numpy as np
import pytest
import torch
import vla_eval_policy
from fake_policy import FakePolicy
from lerobot_stand_in import lerobot
from openpi_clients import answer_to, client_of
from running import fake_service, plain, serving
from vla_eval.connection import Connection

from spatialvla.serving.engine.turns import Client
from spatialvla.serving.engine.watching import WatchedDecision
from spatialvla.serving.guard.limits import Limits
from spatialvla.serving.vla_eval.conventions import LIBERO

__all__ = ["lerobot"]  # a fixture


class Onlooker:
    """Keeps what it is told."""

    def __init__(self, watching: bool = False) -> None:
        self.watching = watching
        self.told: list[WatchedDecision] = []
        self.over: list[Client] = []

    def decided(self, decided: WatchedDecision) -> None:
        self.told.append(decided)

    def ended(self, client: Client) -> None:
        self.over.append(client)


class DeepPolicy(FakePolicy):
    """Keeps a depth map of one meter for whoever wants one."""

    def decide(self, observations, executors):
        for executor in executors:
            executor.depth = {0: torch.ones(2, 2)} if executor.keeps_depth else {}
        return super().decide(observations, executors)


def test_a_decision_is_told_with_what_it_was_made_of_and_what_is_sent(policy):
    onlooker = Onlooker()
    with serving(fake_service(policy, limits=Limits.load("franka"), watchers=[onlooker])) as running:
        message = plain(200, position=[0.5, 0, 0.4])
        sent = client_of(running).infer(message)["actions"]
    (told,) = onlooker.told
    assert onlooker.over == [told.client], "the episode ends with the connection"
    assert np.array_equal(told.answer.request.observation.image, message["image"])
    assert told.answer.request.observation.instruction == "task 200"
    assert np.array_equal(told.answer.chunk.actions, answer_to(message)), "as predicted"
    assert np.array_equal(told.actions, sent), "as sent"
    assert told.clamped == {"translation": 4, "rotation": 4}
    assert told.client.address == "127.0.0.1"
    assert told.depth == {}


@pytest.mark.parametrize("watching", [True, False])
def test_depth_is_kept_while_somebody_watches(watching):
    onlooker = Onlooker(watching)
    with serving(fake_service(DeepPolicy(), watchers=[Onlooker(), onlooker])) as running:
        client_of(running).infer(plain(1))
    (told,) = onlooker.told
    assert list(told.depth) == ([0] if watching else [])


@pytest.mark.usefixtures("lerobot")
def test_lerobots_decisions_are_told():
    onlooker = Onlooker()
    with lerobot_client.served(watchers=[onlooker]) as connect:
        robot = connect()
        robot.begin()
        robot.see(1, text="pick")
        robot.actions()
    assert [told.answer.request.observation.instruction for told in onlooker.told] == ["pick"]


def test_decisions_for_the_harness_are_told():
    onlooker = Onlooker()

    async def episode(url: str) -> None:
        async with Connection(url) as connection:
            await connection.start_episode(vla_eval_policy.EPISODE)
            await connection.act(vla_eval_policy.message(LIBERO))
            await connection.end_episode({"success": True})

    with vla_eval_policy.served(watchers=[onlooker]) as running:
        anyio.run(episode, running.url)
    assert [told.answer.request.observation.instruction for told in onlooker.told] == ["pick it up"]

"""How sure the policy was goes to the client, and a server stops where it becomes too unsure, in every protocol."""

import anyio
import grpc
import lerobot_client
import numpy as np
import pytest
import vla_eval_policy
from fake_policy import FakePolicy
from lerobot_stand_in import lerobot
from openpi_clients import client_of
from running import fake_service, picture, plain, serving
from vla_eval.connection import Connection

from spatialvla import Policy, types
from spatialvla.actions.units import LIBERO as LIBERO_UNITS
from spatialvla.actions.units import UNKNOWN
from spatialvla.errors import InputError
from spatialvla.serving.engine.counters import Metrics
from spatialvla.serving.engine.service import service_for
from spatialvla.serving.guard.sureness import StopAbove, Sureness
from spatialvla.serving.vla_eval.conventions import LIBERO
from spatialvla_client import Client, Observation, Refused

__all__ = ["lerobot"]  # a fixture


def unsure(level: float) -> types.Uncertainty:
    return types.Uncertainty(np.full((4, 3), level / 3), np.full(4, float(level)))


def seen(level: float) -> Observation:
    return Observation(picture(1), f"unsure {level:g}")


# ------------------------------------------------------------------- the reply


def test_the_light_client_gets_what_the_policy_says():
    policy = Policy.from_pretrained("nano", uncertainty=True)
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    (expected,) = policy.predict([types.Observation(image, "stop")])
    with serving(service_for(policy)) as running, Client(running.url) as robot:
        chunk = robot.act(Observation(image, "stop"))
        for part in range(3):
            name = ("translation", "rotation", "gripper")[part]
            assert running.value("entropy_bits_sum", part=name) == pytest.approx(
                expected.uncertainty.entropy[:, part].mean(), abs=1e-4
            )
        spread = expected.uncertainty.spread_mm
        assert running.value("spread_millimeters_sum") == pytest.approx(spread.mean(), rel=1e-4)
    np.testing.assert_allclose(chunk.uncertainty.entropy, expected.uncertainty.entropy, atol=1e-4)
    np.testing.assert_allclose(chunk.uncertainty.spread_mm, spread, rtol=1e-4)


def test_where_nobody_says_what_1_is_the_spread_is_no_number_and_is_not_counted():
    metrics = Metrics()
    metrics.unsure(types.Uncertainty(np.ones((4, 3)), np.full(4, np.nan)))
    assert metrics.value("entropy_bits_sum", part="gripper") == 1
    assert metrics.value("spread_millimeters_count") == 0


def test_openpis_client_gets_a_map_and_nothing_where_the_policy_does_not_tell():
    with serving(fake_service(FakePolicy(uncertainty=True))) as running:
        told = client_of(running).infer(plain(1, instruction="unsure 6"))["uncertainty"]
        assert set(told) == {"entropy", "spread_mm"}, "and no probabilities of all cells"
        assert np.array_equal(told["spread_mm"], [3, 9, 6, 6])
        assert np.array_equal(told["entropy"], np.array([[1, 3, 2, 2]] * 3).T)
        assert running.value("spread_millimeters_sum") == 6
    with serving(fake_service(FakePolicy())) as running, Client(running.url) as robot:
        assert "uncertainty" not in client_of(running).infer(plain(1))
        assert robot.act(seen(6)).uncertainty is None


def test_the_harness_gets_it_with_the_first_command_of_a_chunk():
    async def episode(url: str) -> list:
        async with Connection(url) as connection:
            await connection.start_episode(vla_eval_policy.EPISODE)
            return [await connection.act(vla_eval_policy.message(LIBERO, text="unsure 6")) for _ in range(5)]

    with vla_eval_policy.served(policy=vla_eval_policy.policy_for(LIBERO, uncertainty=True)) as running:
        replies = anyio.run(episode, running.url)
    assert ["uncertainty" in reply for reply in replies] == [True, False, False, False, True]
    assert set(replies[0]["uncertainty"]) == {"entropy", "spread_mm"}
    assert np.array_equal(replies[0]["uncertainty"]["spread_mm"], [3, 9, 6, 6])


# ------------------------------------------------------------------------ stop


def test_the_episodes_mean_decides_and_a_stop_lasts_until_the_next_one():
    sureness = Sureness(StopAbove(mm=10))
    levels = (4, 16, 9, 12, 0, 0, 0, 0)  # means 4, 10, 9.7, 10.3
    stopped = [sureness.why_stop(unsure(level)) for level in levels]
    assert [reason is not None for reason in stopped] == [False] * 3 + [True] * 5
    assert len(set(stopped[3:])) == 1
    assert stopped[3] == (
        "The policy is too unsure to go on: 10.2 mm of spread on average in this episode, more than 10 "
        "(--stop-above.mm); nothing is sent until the next episode begins."
    )
    sureness.reset()
    assert sureness.why_stop(unsure(4)) is None


def test_bits_are_those_of_a_whole_step():
    assert Sureness(StopAbove(bits=10)).why_stop(unsure(9.9)) is None
    assert "10.1 bits of entropy on average" in Sureness(StopAbove(bits=10)).why_stop(unsure(10.1))


def test_a_spread_that_is_no_number_stops():
    assert Sureness(StopAbove(mm=10)).why_stop(unsure(np.nan)) is not None


def test_the_light_client_is_refused_until_it_begins_an_episode():
    service = fake_service(FakePolicy(uncertainty=True), stop_above=StopAbove(mm=10))
    with serving(service) as running, Client(running.url) as robot:
        robot.act(seen(4))
        for level in (40, 0):
            with pytest.raises(Refused, match="too unsure to go on: 22 mm of spread") as caught:
                robot.act(seen(level))
            assert caught.value.outcome == "unsure"
        robot.reset()
        assert robot.act(seen(4)).uncertainty.spread_mm.mean() == 4
        assert running.value("requests_total", outcome="unsure") == 2


def test_an_episode_whose_first_decision_is_too_unsure_stays_stopped():
    service = fake_service(FakePolicy(uncertainty=True), stop_above=StopAbove(mm=10))
    with serving(service) as running, Client(running.url) as robot:
        for level in (40, 0):
            with pytest.raises(Refused, match="too unsure to go on: 40 mm of spread"):
                robot.act(seen(level))


def test_an_episode_begins_with_a_message_that_is_refused_too():
    service = fake_service(FakePolicy(uncertainty=True), stop_above=StopAbove(mm=10))
    with serving(service) as running, Client(running.url) as robot:
        with pytest.raises(Refused, match="too unsure"):
            robot.act(seen(40))
        robot.reset()
        with pytest.raises(Refused, match="'under_way' must be"):
            robot.infer(seen(0), None, np.zeros(7))
        robot.act(seen(0))


def test_openpis_client_is_told_why():
    service = fake_service(FakePolicy(uncertainty=True), stop_above=StopAbove(mm=10))
    with serving(service) as running, pytest.raises(RuntimeError, match="too unsure to go on"):
        client_of(running).infer(plain(1, instruction="unsure 40"))


@pytest.mark.usefixtures("lerobot")
def test_lerobots_robot_gets_no_actions_until_it_begins_again():
    policy = FakePolicy(uncertainty=True)
    with lerobot_client.served(policy, stop_above=StopAbove(mm=10)) as connect:
        robot = connect()
        robot.begin()
        for step in (1, 2):
            robot.see(step, text="unsure 40")
            with lerobot_client.refused(grpc.StatusCode.ABORTED, "too unsure to go on"):
                robot.actions()
        robot.begin()
        robot.see(1, text="unsure 4")
        assert len(robot.actions()) == 4


def test_the_harness_is_told_why():
    async def episode(url: str) -> None:
        async with Connection(url) as connection:
            await connection.start_episode(vla_eval_policy.EPISODE)
            await connection.act(vla_eval_policy.message(LIBERO, text="unsure 40"))

    policy = vla_eval_policy.policy_for(LIBERO, uncertainty=True)
    with (
        vla_eval_policy.served(policy=policy, stop_above=StopAbove(mm=10)) as running,
        pytest.raises(RuntimeError, match="too unsure to go on"),
    ):
        anyio.run(episode, running.url)


def test_thresholds_that_cannot_hold_are_refused():
    for value in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match=r"--stop-above\.mm must be a positive number"):
            StopAbove(mm=value)
    StopAbove().check_policy(False, UNKNOWN)
    assert not StopAbove().asked
    assert StopAbove(mm=20, bits=9).describe() == (
        "Stops an episode whose decisions have more than 20 mm of spread or 9 bits of entropy on average."
    )
    StopAbove(mm=5, bits=5).check_policy(True, LIBERO_UNITS)
    with pytest.raises(InputError, match="add --uncertainty"):
        StopAbove(bits=5).check_policy(False, LIBERO_UNITS)
    with pytest.raises(InputError, match=r"use --stop-above\.bits"):
        StopAbove(mm=5).check_policy(True, UNKNOWN)

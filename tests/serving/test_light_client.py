"""The light client against our own server: it comes back after the server does, and never mixes answers up."""

import itertools
import socket
import threading
import time
from concurrent.futures import Executor, Future
from dataclasses import replace

import numpy as np
import pytest
from fake_policy import TOKENS, FakePolicy, Seen, expected
from running import K, fake_service, picture, serving

from spatialvla import types
from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.guard.limits import Limits, Workspace
from spatialvla_client import (
    AsynchronousLoop,
    Backoff,
    Client,
    Observation,
    ProtocolError,
    Refused,
    RequestTimeout,
)

QUICK = Backoff(first=0.02, longest=0.1)


def observation(seed: int) -> Observation:
    return Observation(picture(seed), f"task {seed}")


def answer_to(seen: Observation) -> np.ndarray:
    return expected(types.Observation(seen.image, seen.instruction))


@pytest.fixture
def policy() -> FakePolicy:
    return FakePolicy()


def test_act_gives_the_policys_actions(policy):
    with serving(fake_service(policy)) as running, Client(running.url) as robot:
        assert robot.metadata["chunk"] == 4
        chunk = robot.act(observation(5))
        assert np.array_equal(chunk.actions, answer_to(observation(5)))
        assert chunk.tokens.shape == (4, 3)
        assert chunk.timing["round_trip_ms"] >= chunk.timing["infer_ms"]


def test_it_takes_the_servers_names_for_things(policy):
    """The same robot code, whatever keys the server's mapping asks for; also our own Observation."""
    with serving(fake_service(policy), "libero") as running, Client(running.url) as robot:
        seen = types.Observation(picture(3), "task 3", intrinsics=K)
        chunk = robot.act(seen)
        assert np.array_equal(chunk.actions[:, :6], expected(seen)[:, :6])
        assert robot.metadata["action"]["gripper_open"] == -1


def test_a_reset_goes_along_once(policy):
    with serving(fake_service(policy)) as running, Client(running.url) as robot:
        robot.act(observation(1))
        robot.act(observation(2))
        robot.reset()
        robot.act(observation(3))
        robot.act(observation(4))
        assert [executor.resets for executor in policy.executors] == [2], "at the start, and when asked to"


def test_a_reset_while_the_first_request_is_under_way_goes_along_with_the_next(policy):
    with serving(fake_service(policy)) as running, Client(running.url) as robot:
        policy.gate.clear()
        thread = threading.Thread(target=lambda: robot.act(observation(1)))
        thread.start()
        while not running.value("stage_seconds_count", stage="prepare"):
            time.sleep(0.01)
        robot.reset()
        policy.gate.set()
        thread.join(10)
        robot.act(observation(2))
        robot.act(observation(3))
        assert [executor.resets for executor in policy.executors] == [2]


def test_committed_steps_reach_the_policy(policy):
    committed = TOKENS + np.array([[0, 0, 0], [1, 1, -1]])
    with serving(fake_service(policy)) as running, Client(running.url) as robot:
        chunk = robot.infer(observation(1), committed)
        assert len(chunk.actions) == 4
        assert policy.committed[-1][0].tolist() == committed.tolist()


def test_it_drives_the_asynchronous_loop(policy):
    policy.seconds = 0.01
    executed: list[np.ndarray] = []
    with (
        serving(fake_service(policy)) as running,
        Client(running.url) as robot,
        AsynchronousLoop(robot.infer, control_hz=50, commit=True) as loop,
    ):
        for _ in range(20):
            executed.append(loop.act(lambda: observation(1)))
            time.sleep(0.02)
        assert loop.statistics.requests >= 3
    assert all(action.shape == (7,) for action in executed)


class Wobbling(FakePolicy):
    """Moves a step back and three on, whatever it sees."""

    def _chunk(self, seen: Seen, batch: int) -> types.ActionChunk:
        actions = np.ones((4, 7)) * [[-1], [1], [1], [1]] * [1, 0, 0, 0, 0, 0, 1]
        return types.ActionChunk(actions, np.tile(TOKENS, (4, 1)))


class AtOnce(Executor):
    """Has the answer while the step goes on in which it was asked for."""

    def submit(self, job):
        answer = Future()
        answer.set_result(job())
        return answer


@pytest.mark.parametrize("commit", [False, True])
@pytest.mark.parametrize("gripper_open", [1, -1])
def test_the_asynchronous_loop_keeps_the_workspace(tmp_path, commit, gripper_open):
    mapping = tmp_path / "robot.yaml"
    mapping.write_text(
        "image: i\nprompt: p\npose: place\nposition: [0, 1, 2]\n"
        f"gripper_open: {gripper_open}\ngripper_closed: 0.5\n"
    )
    box = Workspace(np.array([0.3, -0.3, 0.0]), np.array([0.6, 0.3, 0.5]))
    limits = Limits(translation=0.05, workspace=box, meters_per_unit=0.05, frame="base")
    position, farthest, numbers = np.array([0.45, 0.0, 0.2]), 0.0, itertools.count()

    def observe() -> Observation:
        return Observation(picture(next(numbers)), "go", position=position.copy())

    with (
        serving(fake_service(Wobbling(), limits=limits), str(mapping)) as running,
        Client(running.url) as robot,
        AsynchronousLoop(robot.infer, 10, commit=commit, clock=lambda: 0.0, executor=AtOnce()) as loop,
    ):
        for _ in range(30):
            position += 0.05 * loop.act(observe)[:3]
            farthest = max(farthest, position[0])
        assert loop.statistics.requests > 8
    assert farthest == pytest.approx(0.6)


@pytest.mark.parametrize("under_way", [np.zeros(7), np.zeros((2, 6)), np.full((2, 7), np.nan)])
def test_actions_under_way_that_are_none_are_refused(policy, under_way):
    with serving(fake_service(policy)) as running, Client(running.url) as robot:
        with pytest.raises(Refused, match=r"'under_way' must be an array \(P, 7\) of finite") as refused:
            robot.infer(observation(1), None, under_way)
        assert refused.value.outcome == "bad_input"


@pytest.mark.parametrize(
    ("text", "outcome"), [("nan", "unsafe"), ("crash", "error"), ("refuse", "bad_input")]
)
def test_a_refusal_says_why_and_the_connection_goes_on(policy, text, outcome):
    with serving(fake_service(policy)) as running, Client(running.url) as robot:
        with pytest.raises(Refused) as refused:
            robot.act(Observation(picture(1), text))
        assert refused.value.outcome == outcome
        assert np.array_equal(robot.act(observation(2)).actions, answer_to(observation(2)))
        assert running.value("connections") == 1


def test_what_the_mapping_has_no_place_for_is_not_dropped_silently(policy, tmp_path):
    mapping = tmp_path / "narrow.yaml"
    mapping.write_text("image: i\nprompt: p\n")
    with serving(fake_service(policy), str(mapping)) as running, Client(running.url) as robot:
        robot.act(observation(1))
        with pytest.raises(Refused, match="no key for depth"):
            robot.act(Observation(picture(1), "x", depth=np.ones((16, 16))))


def test_what_cannot_be_sent_is_refused_here(policy):
    with serving(fake_service(policy)) as running, Client(running.url) as robot:
        with pytest.raises(Refused, match="cannot be sent"):
            robot.act(Observation(np.array([None]), "x"))
        assert np.array_equal(robot.act(observation(2)).actions, answer_to(observation(2)))


def test_a_busy_server_is_asked_again(policy):
    settings = EngineSettings(max_queue=1, max_batch=1, threads=4)
    results = []
    with serving(fake_service(policy, settings=settings)) as running:
        policy.gate.clear()

        def one(number: int) -> None:
            with Client(running.url, backoff=QUICK) as robot:
                results.append((number, robot.act(observation(number)).actions))

        threads = [threading.Thread(target=one, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        while not running.value("requests_total", outcome="busy"):
            time.sleep(0.01)
        policy.gate.set()
        for thread in threads:
            thread.join(10)
    assert sorted(number for number, _ in results) == list(range(5))
    assert all(np.array_equal(actions, answer_to(observation(number))) for number, actions in results)


# ------------------------------------------------------- servers that go away


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_it_waits_for_a_server_that_starts_late(policy):
    port = free_port()
    results = []
    with Client(f"ws://127.0.0.1:{port}", backoff=QUICK) as robot:
        thread = threading.Thread(target=lambda: results.append(robot.act(observation(3))))
        thread.start()
        time.sleep(0.2)
        with serving(fake_service(policy, port=port)):
            thread.join(10)
    assert np.array_equal(results[0].actions, answer_to(observation(3)))


def test_a_server_that_comes_back_with_other_conventions_is_not_used(policy):
    port = free_port()
    with Client(f"ws://127.0.0.1:{port}", backoff=QUICK) as robot:
        with serving(fake_service(policy, port=port)):
            robot.act(observation(1))
        with serving(fake_service(FakePolicy(), port=port), "libero") as running:
            for _ in range(2):
                with pytest.raises(
                    ProtocolError, match=r"action.gripper_open was 1\.0 and is -1\.0"
                ) as error:
                    robot.act(observation(2))
            assert "mapping was 'plain' and is 'libero'; keys.image was 'image'" in str(error.value)
            with Client(running.url) as another:
                another.act(observation(2))
        with serving(replace(fake_service(FakePolicy(), port=port), name="another checkpoint")):
            robot.act(observation(3))
            assert robot.metadata["policy"] == "another checkpoint"


def test_clients_outlive_restarts_of_the_server(policy):
    """Each keeps asking while the server comes and goes; none gets another's answer, none loses one."""
    port, stop, wrong, counts = free_port(), threading.Event(), [], [0] * 4

    def robot_number(number: int) -> None:
        with Client(f"ws://127.0.0.1:{port}", backoff=QUICK, timeout=20) as robot:
            while not stop.is_set():
                seen = observation(1000 * number + counts[number])
                if not np.array_equal(robot.act(seen).actions, answer_to(seen)):
                    wrong.append(seen)
                counts[number] += 1

    threads = [threading.Thread(target=robot_number, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for life in range(3):
        with serving(fake_service(FakePolicy(seconds=0.002), port=port)):
            before = list(counts)
            deadline = time.monotonic() + 20
            while any(count < past + 5 for count, past in zip(counts, before, strict=True)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if life == 2:
                stop.set()
                for thread in threads:
                    thread.join(20)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_a_server_too_slow_is_an_error_and_its_late_answer_is_thrown_away(policy):
    with serving(fake_service(policy)) as running, Client(running.url, timeout=2) as robot:
        robot.act(observation(1))  # connects, which a busy machine takes its time for
        policy.gate.clear()
        with pytest.raises(RequestTimeout):
            robot.act(observation(2))
        policy.gate.set()
        assert np.array_equal(robot.act(observation(3)).actions, answer_to(observation(3)))

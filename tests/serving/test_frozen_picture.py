"""A picture that stays while the gripper moves is doubted, then refused."""

import logging

import numpy as np
import pytest
from fake_policy import FakePolicy
from running import fake_service, picture

from spatialvla import Policy
from spatialvla.errors import InputError
from spatialvla.frozen_picture import PATIENCE
from spatialvla.serving.engine.session import Session
from spatialvla.types import ActionChunk, CameraImage, Observation


@pytest.fixture
def session():
    service = fake_service(FakePolicy())
    yield service.session()
    service.engine.drain(5)


def see(session: Session, seed: int, x: float | None) -> None:
    answer = session.submit(Observation(picture(seed), "pick")).result(10)
    session.finish(answer, position=None if x is None else np.array([x, 0.0, 0.0]))


def test_a_camera_that_has_stopped_is_doubted_then_refused(session, caplog):
    see(session, 1, 0.0)
    with caplog.at_level(logging.WARNING):
        for step in range(1, PATIENCE + 1):
            see(session, 1, 0.01 * step)
    assert len(caplog.messages) == PATIENCE
    assert "moved by 0.030 m; check the camera" in caplog.messages[-1]
    with pytest.raises(InputError, match=r"moved by 0\.040 m"):
        see(session, 1, 0.04)
    see(session, 2, 0.05)
    see(session, 2, 0.06)


def test_each_camera_is_watched_and_named(caplog):
    service = fake_service(FakePolicy(cameras=("image", "wrist")))
    session = service.session()
    with caplog.at_level(logging.WARNING):
        for step in range(PATIENCE + 1):
            images = {"wrist": CameraImage(picture(99))} if step != 1 else {}
            answer = session.submit(Observation(picture(step), "pick", images=images)).result(10)
            session.finish(answer, position=np.array([0.01 * step, 0.0, 0.0]))
    assert len(caplog.messages) == PATIENCE - 1, "a picture that is missing says nothing"
    assert all("The picture of the camera wrist is the same" in told for told in caplog.messages)
    for step in range(9, 10 + PATIENCE):
        seen = Observation(picture(step), "pick", images={"wrist": CameraImage(picture(99))})
        answer = session.submit(seen).result(10)
        if step > 9:
            with pytest.raises(InputError, match="of the camera wrist is the same"):
                session.finish(answer, position=np.array([0.01 * step, 0.0, 0.0]))
        else:
            session.finish(answer, position=np.array([0.01 * step, 0.0, 0.0]))
    service.engine.drain(5)


def test_a_new_episode_may_begin_with_the_same_picture(session):
    for _ in range(PATIENCE + 2):
        see(session, 1, 0.0)
        see(session, 1, 0.5)
        session.reset()


@pytest.mark.parametrize("positions", [[0.1] * 9, [0.1, 0.101, 0.104] * 3, [None] * 9])
def test_a_robot_that_stands_still_or_tells_nothing_is_not_doubted(session, positions, caplog):
    with caplog.at_level(logging.WARNING):
        for x in positions:
            see(session, 1, x)
    assert caplog.messages == []


def test_in_python_it_is_told_from_where_the_actions_lead_and_never_refused(caplog, monkeypatch):
    away = ActionChunk(np.tile([0.5, 0, 0, 0, 0, 0, 1.0], (4, 1)), np.zeros((4, 3), np.int64))
    monkeypatch.setattr(Policy, "decide", lambda *observations, **options: [away])
    policy = Policy.from_pretrained("nano")
    seen = Observation(np.full((128, 128, 3), 90, np.uint8), "pick up the black bowl")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "spatialvla"):
        for _ in range(PATIENCE + 3):
            policy.act(seen)
    assert len(caplog.messages) == PATIENCE
    assert "was told to move by 0.100 m; check the camera" in caplog.messages[0]
    caplog.clear()
    policy.reset()
    policy.act(seen)
    assert caplog.messages == []

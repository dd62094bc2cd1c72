"""Rates: a burst goes through, what comes after it waits its turn."""

from dataclasses import fields

import pytest

from spatialvla.errors import InputError
from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.guard.traffic import Throttle, TrafficLimits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_goes_through_and_the_rest_at_the_rate():
    clock = Clock()
    throttle = Throttle(rate=10, burst=3, clock=clock)
    assert [throttle.delay() for _ in range(3)] == [0, 0, 0]
    for _ in range(20):
        wait = throttle.delay()
        assert wait == pytest.approx(0.1)
        clock.now += wait
    clock.now += 100
    assert [throttle.delay() for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)], "rest saves up one burst"


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", [field.name for field in fields(TrafficLimits)])
def test_limits_are_positive_and_finite(name, value):
    with pytest.raises(InputError, match=f"{name} must be positive and finite, got {value}"):
        TrafficLimits(**{name: value})


@pytest.mark.parametrize("value", [-1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["gather_ms", "gather_share"])
def test_waits_are_finite(name, value):
    with pytest.raises(InputError, match=f"{name} must be 0 or more and finite, got {value}"):
        EngineSettings(**{name: value})

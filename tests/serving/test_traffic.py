"""Rates: a burst goes through, what comes after it waits its turn."""

import pytest

from spatialvla.errors import InputError
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


@pytest.mark.parametrize("name", ["max_message_mb", "rate", "idle_timeout", "max_connections"])
def test_limits_are_positive(name):
    with pytest.raises(InputError, match=f"{name} must be positive"):
        TrafficLimits(**{name: 0})

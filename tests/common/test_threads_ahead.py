"""Results come in order from threads that work no further ahead than there are threads."""

import threading
import time

import pytest

from spatialvla.common.threads_ahead import threads_ahead


@pytest.mark.parametrize("threads", [1, 3, 20])
def test_results_come_in_the_order_of_their_items(threads):
    def square(number):
        time.sleep(0.002 * (number % 3))
        return number * number

    found = [future.result() for future in threads_ahead(square, range(12), threads)]
    assert found == [number * number for number in range(12)]
    assert list(threads_ahead(square, [], threads)) == []


def test_several_work_at_once_and_none_too_far_ahead():
    met = threading.Barrier(3, timeout=20)
    begun = []

    def meet(number):
        begun.append(number)
        if number < 3:
            met.wait()
        return number

    results = threads_ahead(meet, range(100), 3)
    assert next(results).result() == 0
    time.sleep(0.05)
    assert sorted(begun) == [0, 1, 2]
    assert [future.result() for future in results] == list(range(1, 100))


def test_what_fails_is_raised_where_its_result_is_asked_for_and_what_has_not_begun_is_left():
    begun = []

    def fail_at_two(number):
        begun.append(number)
        if number == 2:
            raise ValueError("two")
        return number

    results = threads_ahead(fail_at_two, range(50), 2)
    assert [next(results).result() for _ in range(2)] == [0, 1]
    failed = next(results)
    with pytest.raises(ValueError, match="two"):
        failed.result()
    results.close()
    assert len(begun) <= 5

"""Functions in threads: order of results, and errors."""

import pytest

from twostream.threads import map_in_threads


def test_results_are_in_the_order_of_the_items():
    assert map_in_threads(lambda number: number**2, range(100)) == [number**2 for number in range(100)]
    assert map_in_threads(str, []) == []


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda number: 1 // number, [1, 0])

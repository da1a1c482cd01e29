"""Prefetching: in order, bounded, and with an end."""

import threading
from collections.abc import Callable, Iterator

import pytest

from memory_pipeline.prefetch import prefetch


def counting(made: list[int], most: int = 10) -> Iterator[int]:
    """Make numbers and record each."""
    for number in range(most):
        made.append(number)
        yield number


def alive() -> int:
    """Count the threads that prefetch."""
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def test_results_come_in_order_and_the_thread_ends() -> None:
    """All of them, once."""
    assert list(prefetch(counting([]), depth=2)) == list(range(10))
    assert alive() == 0


def test_no_more_results_are_made_than_there_is_space_for(wait_until: Callable[..., None]) -> None:
    """Memory is bounded: the caller's result, and ``depth`` more."""
    made: list[int] = []
    results = prefetch(counting(made), depth=2)
    assert next(results) == 0
    wait_until(lambda: made == [0, 1, 2])
    assert next(results) == 1
    wait_until(lambda: made == [0, 1, 2, 3])
    results.close()
    assert alive() == 0
    assert len(made) <= 5


def test_an_error_comes_where_its_result_would_have_come() -> None:
    """Results made before it are not lost."""

    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    results = prefetch(failing(), depth=3)
    assert next(results) == 1
    with pytest.raises(ValueError, match="broken"):
        next(results)
    assert alive() == 0

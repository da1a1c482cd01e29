"""Pauses that grow: from the first, by the factor, up to the limit."""

from itertools import accumulate, repeat

import pytest

from memory_pipeline.backoff import Backoff


def pauses(backoff: Backoff, count: int) -> list[float]:
    """Return the first pauses of failures in a row."""
    return list(
        accumulate(repeat(None, count), lambda last, _: backoff.following(last), initial=0.0)
    )[1:]


def test_pauses_double_up_to_the_limit() -> None:
    """The first failure pauses for the first pause, and no failure for longer than the limit."""
    assert pauses(Backoff(0.5, 3.0), 5) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_the_factor_is_the_callers() -> None:
    """A service that starts slowly may back off faster."""
    assert pauses(Backoff(1.0, 100.0, factor=10.0), 4) == [1.0, 10.0, 100.0, 100.0]


def test_a_day_of_failures_is_no_overflow() -> None:
    """A pause is computed from the last one: no power of a large count."""
    assert pauses(Backoff(0.5, 30.0), 100_000)[-1] == 30.0


@pytest.mark.parametrize(("seconds", "bounded"), [(0.0, 0.5), (0.7, 0.7), (9.0, 3.0)])
def test_a_pause_of_another_kind_is_bounded(seconds: float, bounded: float) -> None:
    """An error that follows a lost race pauses as an error does, but not from the start."""
    assert Backoff(0.5, 3.0).bounded(seconds) == bounded


def test_jitter_shortens_by_at_most_half() -> None:
    """Processes that failed together retry at different times, none of them later."""
    jittered = [Backoff.jittered(2.0) for _ in range(200)]
    assert all(1.0 <= seconds <= 2.0 for seconds in jittered)
    assert len(set(jittered)) > 100

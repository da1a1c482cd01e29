"""The stopwatch: laps and the total, by the clock that it was given."""

import threading
from dataclasses import dataclass

import pytest

from memory_pipeline.clock import SYSTEM_CLOCK, StepWatch, StopSignal, Stopwatch


@dataclass
class StillClock:
    """A clock that only moves when it is moved."""

    now: float = 100.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.now += seconds


def test_a_lap_begins_where_the_last_one_ended() -> None:
    """Laps add up to the total: no time is measured twice, or never."""
    clock = StillClock()
    stopwatch = Stopwatch(clock)
    clock.sleep(1.0)
    assert stopwatch.lap() == 1.0
    clock.sleep(2.0)
    assert stopwatch.lap() == 2.0
    assert stopwatch.lap() == 0.0
    clock.sleep(0.5)
    assert stopwatch.total() == 3.5


def test_the_total_ends_no_lap() -> None:
    """Progress may be shown in the middle of a lap."""
    clock = StillClock()
    stopwatch = Stopwatch(clock)
    clock.sleep(1.0)
    assert stopwatch.total() == 1.0
    clock.sleep(1.0)
    assert stopwatch.lap() == 2.0


def test_the_machines_clock_never_steps_back() -> None:
    """By default a stopwatch measures by it."""
    before = SYSTEM_CLOCK.monotonic()
    assert SYSTEM_CLOCK.monotonic() >= before
    assert Stopwatch().lap() >= 0.0


def test_an_event_is_a_stop_signal() -> None:
    """The core waits on it without knowing threads."""
    signal: StopSignal = threading.Event()
    signal.set()
    assert signal.wait(0.0)


@pytest.mark.parametrize(
    ("step", "is_step"),
    [(-3600.0, True), (-1.1, True), (-0.9, False), (0.0, False), (3600.0, False)],
)
def test_a_clock_that_was_set_back_is_noticed_once(step: float, *, is_step: bool) -> None:
    """Forward is no harm: every wait ends. A small correction by NTP is no step."""
    clock, ahead = StillClock(), [1_000_000.0]
    watch = StepWatch(1.0, clock)

    def wall() -> float:
        return clock.now + ahead[0]

    assert not watch.set_back(wall)
    clock.sleep(7.0)
    assert not watch.set_back(wall)
    ahead[0] += step
    assert watch.set_back(wall) is is_step
    assert not watch.set_back(wall)


@pytest.mark.parametrize("pauses", [(0.0, 60.0), (60.0, 0.0)])
def test_a_pause_of_the_process_is_no_step(pauses: tuple[float, float]) -> None:
    """Before or after the wall clock is read: a slow answer of Postgres, a busy machine."""
    clock = StillClock()
    watch = StepWatch(1.0, clock)

    def read_in_a_pause() -> float:
        clock.sleep(pauses[0])
        read = clock.now
        clock.sleep(pauses[1])
        return read

    assert not watch.set_back(lambda: clock.now)
    assert not watch.set_back(read_in_a_pause)
    assert not watch.set_back(lambda: clock.now)

"""The stopwatch: laps and the total, by the clock that it was given."""

import threading
from dataclasses import dataclass

from memory_pipeline.clock import SYSTEM_CLOCK, StopSignal, Stopwatch


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

"""Time as the core measures it: durations only. Postgres' clock decides leases and schedules."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Clock(Protocol):
    """A clock that never steps back, and the core's only way to wait without an event."""

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary moment in the past."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""
        ...


class StopSignal(Protocol):
    """An event that asks the process to stop and ends every wait: ``threading.Event`` is one."""

    def is_set(self) -> bool:
        """Whether the process was asked to stop."""
        ...

    def set(self) -> None:
        """Ask the process to stop."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait for at most ``timeout`` seconds; return whether the signal is set."""
        ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's monotonic clock."""

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary moment in the past."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


@dataclass(slots=True)
class StepWatch:
    """Detects that a wall clock was set back, by comparing it with one that never is.

    A clock that is set forward ends every wait early; one that is set back leaves times behind
    that lie in its future, and whoever waits for one waits too long.

    Attributes:
        seconds: a smaller step is none.
        clock: what the wall clock is compared with.

    """

    seconds: float
    clock: Clock = SYSTEM_CLOCK
    _ahead: float = field(init=False, default=-math.inf)

    def set_back(self, read: Callable[[], float]) -> bool:
        """Whether the wall clock was set back since the last call; False at the first one.

        ``read`` returns the wall clock's seconds since any moment. It may take its time, and the
        process may be paused around it: neither looks like a step.
        """
        before = self.clock.monotonic()
        wall = read()
        stepped = wall - before < self._ahead - self.seconds
        self._ahead = wall - self.clock.monotonic()
        return stepped


class Stopwatch:
    """Measures the steps of one sync: the time since its start, and since the last lap."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._started_at = self._lap_at = clock.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last lap, or since the start, and begin the next one."""
        before, self._lap_at = self._lap_at, self._clock.monotonic()
        return self._lap_at - before

    def total(self) -> float:
        """Return the seconds since the start."""
        return self._clock.monotonic() - self._started_at

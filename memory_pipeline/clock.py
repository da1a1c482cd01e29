"""Time as the core measures it: durations alone. Postgres' clock decides leases and schedules."""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """A clock that never steps, and the only way in which the core waits without an event."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""
        ...


class StopSignal(Protocol):
    """An event that ends what waits for it: ``threading.Event`` is one."""

    def is_set(self) -> bool:
        """Whether the process was told to stop."""
        ...

    def set(self) -> None:
        """Tell the process to stop."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait for at most ``timeout`` seconds; return whether the signal is set."""
        ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's monotonic clock."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment of the past."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()

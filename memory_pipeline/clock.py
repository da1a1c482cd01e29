"""The passing of time as an argument, so that a test can hand in another."""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Measures durations and waits; it knows no date."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; they never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


@dataclass(frozen=True, slots=True)
class SystemClock:
    """This machine's clock."""

    def monotonic(self) -> float:
        """Return time.monotonic()."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait that long."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()

"""A clock that a test moves: no test waits for it, and none patches time inside a module."""

from collections.abc import Callable
from dataclasses import dataclass


def nothing() -> None:
    """Do nothing."""


@dataclass
class ManualClock:
    """Stands still until it is moved; a sleep moves it and returns at once.

    ``on_sleep`` is called at each sleep, before the clock moves.
    """

    now: float = 1000.0
    on_sleep: Callable[[], None] = nothing

    def monotonic(self) -> float:
        """Return what the clock shows."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let that much time pass at once."""
        self.on_sleep()
        self.now += seconds

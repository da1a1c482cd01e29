"""The age of changes when they became searchable, summed up as figures."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_SECONDS = 900.0  # the last quarter of an hour: what an operator means by now


@dataclass(frozen=True, slots=True)
class Lags:
    """Seconds from the write of a memory until a search finds it, within the window.

    The clock starts with the application's statement: a transaction that stays open counts as lag.
    """

    changes: int
    p50: float
    p95: float
    p99: float
    slowest: float

    def milliseconds(self) -> dict[str, float]:
        """Return the figures in milliseconds, rounded for people."""
        shown = {"p50": self.p50, "p95": self.p95, "p99": self.p99, "max": self.slowest}
        return {name: round(seconds * 1000, 1) for name, seconds in shown.items()}


def lags_of(lags: Sequence[float]) -> Lags | None:
    """Sum up lags, in seconds; None where there are none."""
    if not lags:
        return None
    if len(lags) == 1:
        return Lags(1, *[lags[0]] * 4)
    cuts = statistics.quantiles(lags, n=100, method="inclusive")
    return Lags(len(lags), cuts[49], cuts[94], cuts[98], max(lags))

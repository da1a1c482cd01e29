"""How old changes were when they became searchable, as figures."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Lags:
    """Seconds from the writing of a memory to its being searchable, over the last while.

    The clock starts with the statement: a transaction that stays open counts as lag.
    """

    changes: int
    p50: float
    p95: float
    p99: float
    slowest: float

    def milliseconds(self) -> dict[str, float]:
        """Return them as people read them."""
        shown = {"p50": self.p50, "p95": self.p95, "p99": self.p99, "max": self.slowest}
        return {name: round(seconds * 1000, 1) for name, seconds in shown.items()}


def lags_of(lags: Sequence[float]) -> Lags | None:
    """Sum lags up, in seconds; None where there is none."""
    if not lags:
        return None
    if len(lags) == 1:
        return Lags(1, *[lags[0]] * 4)
    cuts = statistics.quantiles(lags, n=100, method="inclusive")
    return Lags(len(lags), cuts[49], cuts[94], cuts[98], max(lags))

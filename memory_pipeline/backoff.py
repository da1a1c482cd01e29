"""Back-off: pauses that grow with each failure in a row, up to a limit. No I/O, no clock.

The pause between two syncs of a failing tenant has the same shape, but is computed in SQL:
Postgres' clock decides it (``postpone`` in ``postgres/queries/leases.sql``).
"""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pauses of one kind of failure, in seconds. Holds no state: the caller keeps the last."""

    first_seconds: float
    limit_seconds: float
    factor: float = 2.0

    def following(self, seconds: float) -> float:
        """Return the pause that follows one of ``seconds``; 0: there was none."""
        return self.bounded(seconds * self.factor)

    def bounded(self, seconds: float) -> float:
        """Return ``seconds``, at least the first pause and at most the limit."""
        return min(max(self.first_seconds, seconds), self.limit_seconds)

    @staticmethod
    def jittered(seconds: float) -> float:
        """Return half of ``seconds`` to all of them: processes then retry at different times."""
        return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret

"""Measures the age of changes when they become searchable, where the sync writes them."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.lags import WINDOW_SECONDS, Lags, lags_of
from memory_pipeline.domain.types import TenantId

# The newest lags are kept: so many for each tenant, and so many for all tenants together.
LAGS_A_TENANT = 512
LAGS_IN_ALL = 4096


class Freshness:
    """Keeps the lags of the last quarter of an hour, by tenant and for all. Thread-safe."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._all: deque[tuple[float, float]] = deque(maxlen=LAGS_IN_ALL)
        self._tenants: dict[TenantId, deque[tuple[float, float]]] = {}
        self._unreported: set[TenantId] = set()
        self._watch: Callable[[float], None] = lambda _: None

    def watch(self, watch: Callable[[float], None]) -> None:
        """Call ``watch`` with every lag from now on."""
        self._watch = watch

    def record(self, tenant: TenantId, lags: Sequence[float]) -> None:
        """Record the lags of one batch, in seconds."""
        if not lags:
            return
        now = self._clock.monotonic()
        with self._lock:
            mine = self._tenants.setdefault(tenant, deque(maxlen=LAGS_A_TENANT))
            for lag in lags:
                mine.append((now, lag))
                self._all.append((now, lag))
            self._unreported.add(tenant)
        for lag in lags:
            self._watch(lag)

    def unreported(self) -> dict[TenantId | None, Lags]:
        """Return the figures of each tenant with new lags since the last call; None: of all.

        Tenants without a lag in the window are dropped from memory.
        """
        since = self._clock.monotonic() - WINDOW_SECONDS
        with self._lock:
            changed, self._unreported = self._unreported, set()
            for tenant in [t for t, lags in self._tenants.items() if lags[-1][0] < since]:
                del self._tenants[tenant]
            recent: dict[TenantId | None, list[float]] = {
                t: list(_since(self._tenants[t], since)) for t in changed if t in self._tenants
            }
            if recent:
                recent[None] = list(_since(self._all, since))
        return {tenant: lags for tenant, of in recent.items() if (lags := lags_of(of)) is not None}


def _since(lags: Iterable[tuple[float, float]], since: float) -> Iterator[float]:
    return (lag for at, lag in lags if at >= since)

"""Decide which tenants are synced next: oldest change first, and fair to small changes. No I/O.

A turn is one batch of one tenant. A tenant with changes left after its batch has a backlog. At most
two backlogged tenants run at once, least recently served first, and after all other tenants. One
slot is reserved for them so that a stream of small changes cannot starve a backlog. A tenant whose
sync fails backs off exponentially. No server has more than its share of the turns, so a server that
hangs delays only its own tenants.
"""

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from memory_pipeline.backoff import Backoff
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId

# One is written while the next is read; a third would only make small writes wait longer.
BACKLOGS_AT_ONCE = 2
# Another worker has the tenant: for the time of a batch, or for seconds if that worker was killed.
BUSY_BACKOFF = Backoff(0.05, 1.0)
ERROR_BACKOFF = Backoff(0.5, 30.0)


@dataclass(frozen=True, slots=True)
class _Pause:
    """The pause of a tenant after a turn without success."""

    until: float
    next_seconds: float


@dataclass(slots=True)
class TenantScheduler:
    """Hands out turns; the caller reports the end of each. Not thread-safe.

    Attributes:
        concurrency: how many turns run at once.
        per_server_limit: how many of them write to one server.

    """

    concurrency: int
    per_server_limit: int = sys.maxsize
    # The rank of each tenant in the last query of pending tenants: 0 has the oldest change.
    _ranks: dict[TenantId, int] = field(default_factory=dict)
    # The tenants that wait for a turn, with their ranks.
    _queue: dict[TenantId, int] = field(default_factory=dict)
    _turns: set[TenantId] = field(default_factory=set)
    # The server of each tenant; None: unknown, as for a new tenant.
    _servers: dict[TenantId, UUID | None] = field(default_factory=dict)
    # The end of the last turn of each tenant with a backlog.
    _backlogs: dict[TenantId, float] = field(default_factory=dict)
    _pauses: dict[TenantId, _Pause] = field(default_factory=dict)

    def update_pending(
        self, pending: Iterable[TenantId], servers: Mapping[TenantId, UUID | None] | None = None
    ) -> None:
        """Replace the tenants with changes, oldest change first, and the servers they are on."""
        self._servers = {t: self._servers.get(t) for t in self._turns} | dict(servers or {})
        self._ranks = {tenant: rank for rank, tenant in enumerate(pending)}
        self._queue = dict(self._ranks)
        known = self._queue.keys() | self._turns
        for tenant in (self._backlogs.keys() | self._pauses.keys()) - known:
            self._backlogs.pop(tenant, None)
            self._pauses.pop(tenant, None)

    def start_next(self, now: float, *, unwritable: Collection[UUID] = ()) -> list[TenantId]:
        """Return the tenants whose turns begin now; none on a server in ``unwritable``."""
        ready = [
            tenant
            for tenant in self._queue
            if tenant not in self._turns
            and not self._pauses_at(tenant, now)
            and self._servers.get(tenant) not in unwritable
        ]
        small = sorted((t for t in ready if t not in self._backlogs), key=self._queue.__getitem__)
        large = sorted((t for t in ready if t in self._backlogs), key=self._backlogs.__getitem__)
        running = len(self._turns & self._backlogs.keys())
        large = large[: max(0, BACKLOGS_AT_ONCE - running)]
        reserved = large[:1] if not running else []
        chosen = self._within_limits([*reserved, *small, *large[len(reserved) :]])
        for tenant in chosen:
            del self._queue[tenant]
            self._turns.add(tenant)
        return chosen

    def _pauses_at(self, tenant: TenantId, now: float) -> bool:
        return tenant in self._pauses and self._pauses[tenant].until > now

    def _within_limits(self, tenants: Iterable[TenantId]) -> list[TenantId]:
        """Return the first of these tenants within the limits: of all turns and of each server."""
        taken = Counter(self._servers.get(tenant) for tenant in self._turns)
        chosen: list[TenantId] = []
        for tenant in tenants:
            if len(self._turns) + len(chosen) >= self.concurrency:
                break
            server = self._servers.get(tenant)
            if server is None or taken[server] < self.per_server_limit:
                taken[server] += 1
                chosen.append(tenant)
        return chosen

    def finish(self, outcome: Outcome, now: float) -> None:
        """End the tenant's turn; queue it again if it has a backlog or has to retry."""
        tenant = outcome.tenant
        self._turns.discard(tenant)
        if outcome.verdict == "done":
            self._pauses.pop(tenant, None)
            if outcome.more:
                self._backlogs[tenant] = now
                self._enqueue(tenant)
            else:
                self._backlogs.pop(tenant, None)
            return
        backoff = BUSY_BACKOFF if outcome.verdict in {"busy", "fenced"} else ERROR_BACKOFF
        last = self._pauses.get(tenant)
        seconds = backoff.bounded(last.next_seconds if last else 0.0)
        self._pauses[tenant] = _Pause(now + seconds, backoff.following(seconds))
        self._enqueue(tenant)

    def _enqueue(self, tenant: TenantId) -> None:
        self._queue[tenant] = self._ranks.get(tenant, len(self._ranks))

    def wait_seconds(self, now: float, most: float) -> float:
        """Return the seconds until a pause ends, at most ``most``: no turn can begin before."""
        ends = [self._pauses[t].until for t in self._queue if t in self._pauses]
        return max(0.0, min([most, *(until - now for until in ends if until > now)]))

    def reset_backoff(self) -> None:
        """End every pause: the dependency that the tenants wait for is available again."""
        self._pauses.clear()

    @property
    def running(self) -> int:
        """How many turns are running."""
        return len(self._turns)

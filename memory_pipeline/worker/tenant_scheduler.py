"""Whose turn it is: oldest change first, and nobody waits behind another's backlog. No I/O.

A turn is one batch of one tenant. A tenant that has more after its turn has a backlog: of those,
two at most are at it at once, whoever was served longest ago first, and everybody else goes before
them. One place is theirs all the same, so that a stream of small changes starves no backlog. Who
cannot be served now is set aside, longer each time. No server has more than its share of the turns,
so one that hangs holds up nobody but its own tenants.
"""

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId

# One is written while the next is read; a third would only make small writes wait longer.
BACKLOGS_AT_ONCE = 2
# Another process has the tenant, for the time of a batch; one that was killed, for some seconds.
BUSY_SECONDS = 0.05
LONGEST_BUSY_SECONDS = 1.0
TROUBLE_SECONDS = 0.5
LONGEST_SECONDS = 30.0


@dataclass(slots=True)
class TenantScheduler:
    """Hands out turns; whoever calls it tells when each has ended. For one thread at a time."""

    concurrency: int
    per_server_limit: int = sys.maxsize
    # Each with its place in the last offer.
    _waiting: dict[TenantId, int] = field(default_factory=dict)
    _places: dict[TenantId, int] = field(default_factory=dict)
    _running: set[TenantId] = field(default_factory=set)
    # Where each is written; not known of a new one.
    _servers: dict[TenantId, UUID | None] = field(default_factory=dict)
    # Since when each was served last.
    _backlogs: dict[TenantId, float] = field(default_factory=dict)
    # Until when, and for how long the next time.
    _backoff: dict[TenantId, tuple[float, float]] = field(default_factory=dict)

    def update_pending(
        self, pending: Iterable[TenantId], servers: Mapping[TenantId, UUID | None] | None = None
    ) -> None:
        """Take note of who has changes now, oldest change first, and where; of nobody else."""
        self._servers = {t: self._servers.get(t) for t in self._running} | dict(servers or {})
        self._places = {tenant: place for place, tenant in enumerate(pending)}
        self._waiting = dict(self._places)
        known = self._waiting.keys() | self._running
        for tenant in (self._backlogs.keys() | self._backoff.keys()) - known:
            self._backlogs.pop(tenant, None)
            self._backoff.pop(tenant, None)

    def start_next(self, now: float, *, unwritable: Collection[UUID] = ()) -> list[TenantId]:
        """Return whose turns begin now; nobody's on a server that is closed."""
        able = [
            tenant
            for tenant in self._waiting
            if tenant not in self._running
            and self._backoff.get(tenant, (0.0,))[0] <= now
            and self._servers.get(tenant) not in unwritable
        ]
        few = sorted((t for t in able if t not in self._backlogs), key=self._waiting.__getitem__)
        many = sorted((t for t in able if t in self._backlogs), key=lambda t: self._backlogs[t])
        busy = len(self._running & self._backlogs.keys())
        many = many[: max(0, BACKLOGS_AT_ONCE - busy)]
        first = many[:1] if not busy else []
        chosen = self._shared_out([*first, *few, *many[len(first) :]])
        for tenant in chosen:
            del self._waiting[tenant]
            self._running.add(tenant)
        return chosen

    def _shared_out(self, tenants: Iterable[TenantId]) -> list[TenantId]:
        """Return the first of these that there is room for, in all and on each one's server."""
        taken = Counter(self._servers.get(tenant) for tenant in self._running)
        chosen: list[TenantId] = []
        for tenant in tenants:
            if len(self._running) + len(chosen) >= self.concurrency:
                break
            server = self._servers.get(tenant)
            if server is None or taken[server] < self.per_server_limit:
                taken[server] += 1
                chosen.append(tenant)
        return chosen

    def finish(self, outcome: Outcome, now: float) -> None:
        """Take note of how a turn ended."""
        tenant = outcome.tenant
        self._running.discard(tenant)
        if outcome.verdict == "done":
            self._backoff.pop(tenant, None)
            if outcome.more:
                self._backlogs[tenant] = now
                self._wait(tenant)
            else:
                self._backlogs.pop(tenant, None)
            return
        busy = outcome.verdict in {"busy", "fenced"}
        shortest, longest = (
            (BUSY_SECONDS, LONGEST_BUSY_SECONDS) if busy else (TROUBLE_SECONDS, LONGEST_SECONDS)
        )
        pause = min(max(shortest, self._backoff.get(tenant, (0.0, 0.0))[1]), longest)
        self._backoff[tenant] = (now + pause, min(pause * 2, longest))
        self._wait(tenant)

    def _wait(self, tenant: TenantId) -> None:
        self._waiting[tenant] = self._places.get(tenant, len(self._places))

    def wait_seconds(self, now: float, most: float) -> float:
        """Return for how long nothing can begin but what is offered or ended meanwhile."""
        aside = [self._backoff[t][0] for t in self._waiting if t in self._backoff]
        return max(0.0, min([most, *(until - now for until in aside if until > now)]))

    def reset_backoff(self) -> None:
        """Let those that were set aside try at once: what they waited for is back."""
        self._backoff.clear()

    @property
    def running(self) -> int:
        """How many turns are under way."""
        return len(self._running)

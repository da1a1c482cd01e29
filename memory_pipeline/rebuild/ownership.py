"""What a rebuild holds: its part of a tenant all along, and the tenant's lease for each write.

The owner of a part renews it before every request. Who finds a part whose owner has died waits
until that ownership has run out: by then whatever the owner had sent has landed or died.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from memory_pipeline.clock import SYSTEM_CLOCK, Clock, StopSignal
from memory_pipeline.domain.types import Generation, RebuildId, RebuildPart, TenantId
from memory_pipeline.errors import Fenced, Transient
from memory_pipeline.ports import Lease, Outbox, Rebuilds, RenewLease

# How soon a chunk that found the tenant leased looks again, and for how long it does.
LEASE_POLL_SECONDS = 0.05
LEASE_PATIENCE_SECONDS = 300.0
OWNER_POLL_SECONDS = 0.5


class GivenUp(Exception):
    """The building generation was abandoned, or is not ours to fill."""


class Stopped(Exception):
    """The process was told to stop."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Takes, lends and gives back what a rebuild holds. ``seconds`` a request may take at most.

    Everything that waits raises Stopped once ``stop`` is set.
    """

    outbox: Outbox
    rebuilds: Rebuilds
    seconds: float
    stop: StopSignal
    clock: Clock = SYSTEM_CLOCK

    def own(self, rebuild: RebuildId, tenant: TenantId) -> RebuildPart | None:
        """Become the owner; wait for the end of one who has died in this very rebuild."""
        self.pause(0)
        until = self.clock.monotonic() + self.rebuilds.redo_seconds + OWNER_POLL_SECONDS
        while (part := self.rebuilds.acquire_part(rebuild, tenant)) is None:
            running = self.rebuilds.part_state(rebuild, tenant) == "running"
            if not running or self.clock.monotonic() > until:
                return None
            self.pause(OWNER_POLL_SECONDS)
        return part

    def is_lost(self, part: RebuildPart) -> bool:
        """Whether another process has taken the part over."""
        try:
            self.rebuilds.renew_part(part)
        except Fenced:
            return True
        except Transient:
            return False  # the next attempt says the same, and is counted
        return False

    def renewal(self, part: RebuildPart) -> RenewLease:
        """Return what a call outside the lease holds: the ownership of the part."""

        def renew() -> float:
            if self.stop.is_set():
                raise Stopped
            self.rebuilds.renew_part(part)
            return self.seconds

        return renew

    @contextmanager
    def leased(self, part: RebuildPart, generation: Generation | None = None) -> Iterator[Lease]:
        """Lend the tenant's lease, to fill this generation, and give it back whatever happened.

        Raises:
            GivenUp: the generation is not there to be filled any more.
            Transient: the lease did not become free.

        """
        lease = self._take(part)
        try:
            if generation is not None and not self.rebuilds.may_fill(part, lease, generation):
                raise GivenUp
            yield lease
        finally:
            self.rebuilds.return_lease(lease)

    def _take(self, part: RebuildPart) -> Lease:
        """Take the tenant's lease; wait while a batch has it."""
        until = self.clock.monotonic() + LEASE_PATIENCE_SECONDS
        while (lease := self.outbox.acquire_lease(part.tenant)) is None:
            if self.clock.monotonic() > until:
                raise Transient("the tenant's lease did not become free", sent=False)
            self.pause(LEASE_POLL_SECONDS)
            self.rebuilds.renew_part(part)
        if self.stop.is_set():
            self.rebuilds.return_lease(lease)
            raise Stopped
        return lease

    def settle(self) -> None:
        """Wait until what was sent has landed or died, told to stop or not."""
        self.clock.sleep(self.rebuilds.redo_seconds)

    def pause(self, seconds: float) -> None:
        """Wait, unless told to stop."""
        if self.stop.wait(seconds):
            raise Stopped

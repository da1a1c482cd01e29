"""Own a tenant's part of a rebuild throughout, and the tenant's lease for each write.

The owner renews its part before every request. A process that takes over from a dead owner first
waits for the ownership to expire. By then, every request the old owner sent has been applied or has
timed out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from memory_pipeline.clock import SYSTEM_CLOCK, Clock, StopSignal
from memory_pipeline.domain.types import Generation, RebuildId, RebuildPart, TenantId
from memory_pipeline.errors import Fenced, Transient
from memory_pipeline.ports import Lease, RenewLease
from memory_pipeline.rebuild.ports import Outbox, RebuildParts

# How often a lease that a batch holds is asked for, and for how long.
LEASE_POLL_SECONDS = 0.05
LEASE_PATIENCE_SECONDS = 300.0
OWNER_POLL_SECONDS = 0.5


class GenerationAbandoned(Exception):
    """The building generation was abandoned, or this owner may not fill it any more."""


class Stopped(Exception):
    """The process was asked to stop."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Acquires and returns what a rebuild owns. ``seconds``: the longest request to Chroma.

    Every method that waits raises Stopped once ``stop`` is set, except ``wait_for_sent_requests``.
    """

    outbox: Outbox
    rebuilds: RebuildParts
    seconds: float
    stop: StopSignal
    clock: Clock = SYSTEM_CLOCK

    def acquire(self, rebuild: RebuildId, tenant: TenantId) -> RebuildPart | None:
        """Become the owner of a part; wait for the ownership of a dead process to expire.

        None where the part is done, or has another owner still.
        """
        self.check_stop()
        until = self.clock.monotonic() + self.rebuilds.redo_seconds + OWNER_POLL_SECONDS
        while (part := self.rebuilds.acquire_part(rebuild, tenant)) is None:
            running = self.rebuilds.part_state(rebuild, tenant) == "running"
            if not running or self.clock.monotonic() > until:
                return None
            self._wait(OWNER_POLL_SECONDS)
        return part

    def is_lost(self, part: RebuildPart) -> bool:
        """Whether another process has taken the part over."""
        try:
            self.rebuilds.renew_part(part)
        except Fenced:
            return True
        except Transient:
            return False  # the next attempt fails with the same error, and is counted
        return False

    def renewal(self, part: RebuildPart) -> RenewLease:
        """Return what each request outside the lease calls: it renews the part."""

        def renew() -> float:
            if self.stop.is_set():
                raise Stopped
            self.rebuilds.renew_part(part)
            return self.seconds

        return renew

    @contextmanager
    def leased(self, part: RebuildPart, generation: Generation | None = None) -> Iterator[Lease]:
        """Hold the tenant's lease while the body runs, and return it whatever happened.

        Args:
            part: whose owner this process is.
            generation: the generation that the body fills; None where it fills none.

        Raises:
            GenerationAbandoned: this owner may not fill the generation any more.
            Transient: the lease did not become free.

        """
        lease = self._acquire_lease(part)
        try:
            if generation is not None and not self.rebuilds.may_fill(part, lease, generation):
                raise GenerationAbandoned
            yield lease
        finally:
            self.rebuilds.return_lease(lease)

    def _acquire_lease(self, part: RebuildPart) -> Lease:
        """Acquire the tenant's lease; wait while a batch holds it."""
        until = self.clock.monotonic() + LEASE_PATIENCE_SECONDS
        while (lease := self.outbox.acquire_lease(part.tenant)) is None:
            if self.clock.monotonic() > until:
                raise Transient("the tenant's lease did not become free", sent=False)
            self._wait(LEASE_POLL_SECONDS)
            self.rebuilds.renew_part(part)
        if self.stop.is_set():
            self.rebuilds.return_lease(lease)
            raise Stopped
        return lease

    def wait_for_sent_requests(self) -> None:
        """Wait until every request that was sent has been applied or has timed out.

        Also where the process was asked to stop: the part is released next, and its next owner
        does not wait.
        """
        self.clock.sleep(self.rebuilds.redo_seconds)

    def check_stop(self) -> None:
        """Raise Stopped where the process was asked to stop."""
        self._wait(0)

    def _wait(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Stopped

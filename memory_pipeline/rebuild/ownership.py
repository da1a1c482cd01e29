"""What a rebuild holds: its part of a tenant all along, and the tenant's lease for each write.

The owner of a part renews it before every request. Who finds a part whose owner has died waits
until that ownership has run out: by then whatever the owner had sent has landed or died.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from memory_pipeline.domain.types import Build, Generation, RebuildId, TenantId
from memory_pipeline.errors import Fenced, Transient
from memory_pipeline.ports import Hold, Lease, Outbox, Rebuilds

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
    stop: threading.Event

    def own(self, rebuild: RebuildId, tenant: TenantId) -> Build | None:
        """Become the owner; wait for the end of one who has died in this very rebuild."""
        self.pause(0)
        until = time.monotonic() + self.rebuilds.redo_seconds + OWNER_POLL_SECONDS
        while (build := self.rebuilds.own(rebuild, tenant)) is None:
            running = self.rebuilds.state(rebuild, tenant) == "running"
            if not running or time.monotonic() > until:
                return None
            self.pause(OWNER_POLL_SECONDS)
        return build

    def is_lost(self, build: Build) -> bool:
        """Whether another process has taken the part over."""
        try:
            self.rebuilds.renew(build)
        except Fenced:
            return True
        except Transient:
            return False  # the next attempt says the same, and is counted
        return False

    def hold(self, build: Build) -> Hold:
        """Return what a call outside the lease holds: the ownership of the part."""

        def hold() -> float:
            if self.stop.is_set():
                raise Stopped
            self.rebuilds.renew(build)
            return self.seconds

        return hold

    @contextmanager
    def leased(self, build: Build, generation: Generation | None = None) -> Iterator[Lease]:
        """Lend the tenant's lease, to fill this generation, and give it back whatever happened.

        Raises:
            GivenUp: the generation is not there to be filled any more.
            Transient: the lease did not become free.

        """
        lease = self._take(build)
        try:
            if generation is not None and not self.rebuilds.may_fill(build, lease, generation):
                raise GivenUp
            yield lease
        finally:
            self.rebuilds.give_back(lease)

    def _take(self, build: Build) -> Lease:
        """Take the tenant's lease; wait while a batch has it."""
        until = time.monotonic() + LEASE_PATIENCE_SECONDS
        while (lease := self.outbox.take(build.tenant)) is None:
            if time.monotonic() > until:
                raise Transient("the tenant's lease did not become free", sent=False)
            self.pause(LEASE_POLL_SECONDS)
            self.rebuilds.renew(build)
        if self.stop.is_set():
            self.rebuilds.give_back(lease)
            raise Stopped
        return lease

    def settle(self) -> None:
        """Wait until what was sent has landed or died, told to stop or not."""
        threading.Event().wait(self.rebuilds.redo_seconds)

    def pause(self, seconds: float) -> None:
        """Wait, unless told to stop."""
        if self.stop.wait(seconds):
            raise Stopped

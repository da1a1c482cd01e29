"""Catch up: sync all that is pending now, and wait for what other processes are syncing.

A change that another process has claimed, or that pauses after an error, cannot be synced here and
now. It is waited for, and synced here as soon as nobody has it. Newer changes are left: under a
steady stream there is always one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.changes import RemainingChanges
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId
from memory_pipeline.sync.drain import Drain, Progress

WAIT_SECONDS = 30.0
POLL_SECONDS = 0.25
# Another process has the tenant, or has taken it over.
ELSEWHERE = frozenset({"busy", "fenced"})


class Outbox(Protocol):
    """The outbox as it is waited for."""

    def newest_of_all(self) -> int:
        """Return the number of the newest change of all tenants."""
        ...

    def remaining(
        self, through: int, tenants: Collection[TenantId] | None
    ) -> Sequence[RemainingChanges]:
        """Return the changes up to a number that are not synced, of these tenants or of all."""
        ...


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The outcome of each sync, and what is not synced: other processes have it, or it pauses."""

    outcomes: tuple[Outcome, ...]
    remaining: tuple[RemainingChanges, ...] = ()


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Syncs until every change that existed at its start is synced, or some seconds are over."""

    drain: Drain
    outbox: Outbox
    clock: Clock = SYSTEM_CLOCK

    def run(
        self,
        *,
        only: Collection[TenantId] | None = None,
        wait_seconds: float = WAIT_SECONDS,
        progress: Progress = lambda _: None,
    ) -> CaughtUp:
        """Sync what is pending; wait for the rest.

        Args:
            only: these tenants and no others.
            wait_seconds: how long to wait for other processes, after everything else is synced.
            progress: called with the outcome so far after each batch.

        Raises:
            PostgresUnavailable: no tenant can be synced.
            ModelMissing: the model has to be downloaded first.

        """
        through = self.outbox.newest_of_all()
        outcomes = list(self.drain.run(only=only, paused=True, progress=progress))
        until = self.clock.monotonic() + wait_seconds
        while True:
            failed = {o.tenant for o in outcomes if o.failed or not _may_go_on(o)}
            remaining = [r for r in self.outbox.remaining(through, only) if r.tenant not in failed]
            if not remaining or self.clock.monotonic() >= until:
                return CaughtUp(tuple(outcomes), tuple(remaining))
            self.clock.sleep(POLL_SECONDS)
            waiting = {r.tenant for r in remaining}
            outcomes += self.drain.run(only=waiting, paused=True, progress=progress)


def _may_go_on(outcome: Outcome) -> bool:
    """Whether the tenant may be synced later in this run: nothing of its own has failed."""
    return outcome.verdict == "done" or outcome.verdict in ELSEWHERE

"""What a worker needs from Postgres, Chroma and Dagster, as narrow protocols."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from memory_pipeline.domain.changes import PendingTenant
from memory_pipeline.domain.lags import Lags
from memory_pipeline.domain.outcomes import Outcome, Rebuilt
from memory_pipeline.domain.status import Backlog, FailingReports
from memory_pipeline.domain.types import TenantId

# ---- the loop


class Outbox(Protocol):
    """The outbox as the loop sees it."""

    def pending_tenants(self) -> list[PendingTenant]:
        """Return the tenants with changes, oldest first. Raises PostgresUnavailable."""
        ...


class Model(Protocol):
    """The embedder as the loop sees it."""

    def load(self) -> None:
        """Load the model; may take seconds. Raises ModelMissing or EmbedderUnavailable."""
        ...


class TenantSync(Protocol):
    """The sync of one tenant."""

    def run(self, tenant: TenantId, *, once: bool = False) -> Outcome:
        """Sync a tenant, or one batch of it. Raises PostgresUnavailable or ModelMissing."""
        ...


class Hints(Protocol):
    """A thread that wakes the loop when Postgres hints at changes."""

    def start(self) -> None:
        """Begin to listen."""
        ...

    def stop(self) -> None:
        """Stop listening; no wake-up comes after the return."""
        ...


# ---- the background tasks


class Workers(Protocol):
    """The table of workers, and the figures of the installation."""

    def heartbeat(
        self, failing: FailingReports | None = None, *, quiet_seconds: float = 0.0
    ) -> None:
        """Record that this worker lives, for how long it may be silent, and what fails."""
        ...

    def record_freshness(self, measured: Mapping[TenantId | None, Lags]) -> None:
        """Record how fresh tenants are; None is all of them together."""
        ...

    def backlog(self) -> Backlog:
        """Count the changes that wait, and the dead letters."""
        ...

    def resume_paused(self) -> int:
        """End the pause of every tenant after an error; return their number."""
        ...

    def deregister(self) -> None:
        """Record that this worker has ended."""
        ...


class MeasuredLags(Protocol):
    """The lags that the syncs of this worker have recorded."""

    def unreported(self) -> dict[TenantId | None, Lags]:
        """Return the figures of each tenant with new lags since the last call; None: of all."""
        ...


class Servers(Protocol):
    """The Chroma servers."""

    def writable_and_unwritable(self) -> tuple[set[UUID], set[UUID]]:
        """Send a write to every server; return those that take it, and those that do not.

        Raises:
            ChromaUnavailable: no server is registered yet.

        """
        ...


class DamagedTenants(Protocol):
    """The registry as the repair sees it."""

    def damaged(self) -> Collection[TenantId]:
        """Return the tenants whose collections wait for a rebuild that no process does."""
        ...


class DamageRebuild(Protocol):
    """A rebuild of one tenant, to be run once."""

    def alone(self, tenant: TenantId) -> Rebuilt:
        """Rebuild a tenant because its collection is damaged."""
        ...

    def stop(self) -> None:
        """Stop the rebuild at its next checkpoint. For any thread."""
        ...


class DropRetired(Protocol):
    """The cleanup of retired collections."""

    def __call__(self, *, limit: int) -> int:
        """Drop up to ``limit`` retired collections; return their number."""
        ...


class RestoreWatch(Protocol):
    """The check whether Postgres went back in time."""

    def watch(self, *, seconds: float = ...) -> None:
        """Compare Postgres with the markers in Chroma; end an epoch that is older than ``seconds``.

        Raises:
            PostgresUnavailable: no comparison is possible.

        """
        ...


class Meter(Protocol):
    """The figures for Prometheus."""

    def ready(self) -> None:
        """Record that the worker syncs from now on."""
        ...

    def record(self, outcome: Outcome) -> None:
        """Count a turn."""
        ...

    def set_backlog(self, backlog: Backlog) -> None:
        """Set the number and the age of the changes that wait."""
        ...

    def set_unwritable_servers(self, servers: int) -> None:
        """Set the number of servers that take no writes."""
        ...

    def set_unreported_tenants(self, tenants: int) -> None:
        """Set the number of synced tenants that Dagster could not be told of."""
        ...

    def count_failed_report(self) -> None:
        """Count a report that failed."""
        ...


class Reporter(Protocol):
    """The system that shows synced tenants: Dagster, or none."""

    @property
    def waiting(self) -> Collection[TenantId]:
        """The tenants that it could not be told of completely; it keeps their outcomes."""
        ...

    def report(self, outcomes: Sequence[Outcome]) -> None:
        """Report that these tenants are in sync, with their figures, and those that wait.

        It has the outcomes from then on: they are told, or wait for the next call.

        Raises:
            ReportFailed: some of them wait; the message has the command that mends it.
            PostgresUnavailable: some of them wait for Postgres.

        """
        ...

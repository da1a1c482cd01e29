"""Figures for Prometheus, served on loopback by default. No tenant's name is a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.status import Backlog
from memory_pipeline.errors import SettingsError
from memory_pipeline.settings import PREFIX
from memory_pipeline.sync.freshness import Freshness

LOOPBACK = "127.0.0.1"
LAG_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0)


class Metrics:
    """The figures of a worker: always counted, served only on the given port.

    Raises SettingsError if the port cannot be opened. Thread-safe.
    """

    def __init__(
        self, freshness: Freshness, *, port: int | None = None, address: str = LOOPBACK
    ) -> None:
        self._registry = CollectorRegistry()
        self._ready = self._gauge("worker_ready", "1 once the worker syncs")
        self._backlog = self._gauge("pending_changes", "changes that wait")
        self._oldest = self._gauge("oldest_change_seconds", "age of the oldest pending change")
        self._dead = self._gauge("dead_letters", "memories that were refused too often")
        self._unbacked = self._gauge(
            "unbacked_memories",
            "memories whose vector was refused by Postgres since a backup last succeeded",
        )
        self._erasures = self._gauge("pending_erasures", "tenants whose forgetting is not finished")
        self._documents = Counter(
            "memory_pipeline_documents",
            "documents written, deleted or refused",
            ["how"],
            registry=self._registry,
        )
        self._vectors = Counter(
            "memory_pipeline_vectors",
            "vectors that were computed, or reused",
            ["how"],
            registry=self._registry,
        )
        self._unread_dates = Counter(
            "memory_pipeline_unread_dates",
            "documents written with a date that cannot be read",
            registry=self._registry,
        )
        self._turns = Counter(
            "memory_pipeline_turns",
            "turns of tenants, by verdict",
            ["verdict"],
            registry=self._registry,
        )
        self._errors = Counter(
            "memory_pipeline_errors",
            "turns that ended in an error, by its class",
            ["error"],
            registry=self._registry,
        )
        self._unwritable = self._gauge("unwritable_servers", "Chroma servers that take no writes")
        self._unreported = self._gauge(
            "unreported_tenants", "synced tenants that Dagster could not be told of yet"
        )
        self._failed_reports = Counter(
            "memory_pipeline_failed_reports",
            "reports to Dagster that failed; each is repeated",
            registry=self._registry,
        )
        self._seconds = self._histogram("turn_seconds", "how long turns took")
        self._embed_seconds = self._histogram("embed_seconds", "embedding and backup, per turn")
        self._write_seconds = self._histogram("write_seconds", "writing to Chroma, per turn")
        lag = Histogram(
            "memory_pipeline_lag_seconds",
            "from the write of a memory until it is searchable",
            buckets=LAG_BUCKETS,
            registry=self._registry,
        )
        freshness.watch(lag.observe)
        if port is not None:
            self._serve(port, address)

    def _serve(self, port: int, address: str) -> None:
        try:
            start_http_server(port, addr=address, registry=self._registry)
        except OSError as error:
            raise SettingsError(f"{PREFIX}METRICS_PORT={port}: {error.strerror}") from error

    def ready(self) -> None:
        """Record that the worker syncs from now on."""
        self._ready.set(1)

    def record(self, outcome: Outcome) -> None:
        """Count a turn."""
        self._turns.labels(outcome.verdict).inc()
        self._seconds.observe(outcome.seconds)
        if outcome.error:
            self._errors.labels(outcome.error).inc()
        if outcome.embedded:
            self._embed_seconds.observe(outcome.embed_seconds)
        if outcome.written or outcome.deleted:
            self._write_seconds.observe(outcome.write_seconds)
        self._documents.labels("written").inc(outcome.written)
        self._documents.labels("deleted").inc(outcome.deleted)
        self._documents.labels("failed").inc(outcome.failed)
        self._unread_dates.inc(outcome.unread_dates)
        self._vectors.labels("embedded").inc(outcome.embedded)
        self._vectors.labels("reused").inc(outcome.reused)

    def set_backlog(self, backlog: Backlog) -> None:
        """Set the number and the age of the changes that wait, and the dead letters."""
        self._backlog.set(backlog.changes)
        self._oldest.set(backlog.oldest_seconds)
        self._dead.set(backlog.dead_letters)
        self._unbacked.set(backlog.unbacked_memories)
        self._erasures.set(backlog.erasures)

    def set_unwritable_servers(self, servers: int) -> None:
        """Set the number of servers that take no writes."""
        self._unwritable.set(servers)

    def set_unreported_tenants(self, tenants: int) -> None:
        """Set the number of synced tenants that Dagster could not be told of."""
        self._unreported.set(tenants)

    def count_failed_report(self) -> None:
        """Count a report that failed."""
        self._failed_reports.inc()

    def _histogram(self, name: str, meaning: str) -> Histogram:
        return Histogram(f"memory_pipeline_{name}", meaning, registry=self._registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"memory_pipeline_{name}", meaning, registry=self._registry)

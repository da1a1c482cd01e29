"""A worker's background tasks. No change waits for them.

- heartbeat: record that the worker lives, and how fresh the tenants are
- probe: check whether a server that took no writes takes them again
- repair: rebuild damaged collections, drop retired ones, replay dead letters whose cause is gone,
  finish erasures
- empty: retire the collections of tenants without memories
- report: report synced tenants to Dagster
- restore watch: check whether Postgres went back in time
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.outcomes import Outcome, Rebuilt
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import (
    ChromaUnavailable,
    ContractError,
    PipelineError,
    PostgresUnavailable,
)
from memory_pipeline.logs import get_logger
from memory_pipeline.worker.ports import (
    DamagedTenants,
    DamageRebuild,
    DropRetired,
    MeasuredLags,
    Meter,
    Reporter,
    RestoreWatch,
    Servers,
    Workers,
)

log = get_logger("memory_pipeline.worker.background")

DROPS_AT_ONCE = 3  # the next damaged tenant waits for them
REPORT_TENANTS = 25  # in one report; the others follow in the next


@dataclass(frozen=True, slots=True)
class Intervals:
    """How often each task runs, in seconds.

    Attributes:
        heartbeat_seconds: a worker without a heartbeat for 15 s counts as gone.
        probe_seconds: a server that takes writes again is used within this time.
        repair_seconds: a damaged collection is noticed within this time.
        report_seconds: synced tenants are reported within this time, if one is due.
        report_tenant_seconds: one tenant is reported no more often, so that Dagster's tables do not
            grow with every change.
        restore_watch_seconds: each check costs queries, and a request to every server.
        empty_seconds: each look for tenants without memories reads the whole table once.

    """

    heartbeat_seconds: float = 3.0
    probe_seconds: float = 1.0
    repair_seconds: float = 5.0
    report_seconds: float = 5.0
    report_tenant_seconds: float = 60.0
    restore_watch_seconds: float = 10.0
    empty_seconds: float = 600.0


DEFAULT_INTERVALS = Intervals()


@dataclass(eq=False, kw_only=True)
class BackgroundTasks:
    """The threads next to the loop. A task that fails is logged and runs again.

    Attributes:
        workers: the table of workers.
        freshness: the lags that this worker's syncs record.
        servers: the Chroma servers, for the probe.
        registry: the damaged tenants.
        rebuild: makes the rebuild of one damaged tenant.
        drop_retired: drops collections that no search uses any more.
        replay_cured: replays dead letters whose cause is gone; returns their number.
        resume_erasures: continues the forgetting of tenants; returns how many were finished.
        retire_empty: retires the collections of tenants without memories; returns how many.
        restore_watch: checks whether Postgres went back in time.
        metrics: the figures for Prometheus.
        reporter: Dagster, or none.
        intervals: how often each task runs.
        clock: measures the intervals between reports.

    """

    workers: Workers
    freshness: MeasuredLags
    servers: Servers
    registry: DamagedTenants
    rebuild: Callable[[], DamageRebuild]
    drop_retired: DropRetired
    replay_cured: Callable[[], int]
    resume_erasures: Callable[[], int]
    retire_empty: Callable[[], int]
    restore_watch: RestoreWatch
    metrics: Meter
    reporter: Reporter
    intervals: Intervals = DEFAULT_INTERVALS
    clock: Clock = SYSTEM_CLOCK
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    # Set by a postponed sync, until every server takes writes.
    _probe_due: threading.Event = field(init=False, default_factory=threading.Event)
    _none_writable: threading.Event = field(init=False, default_factory=threading.Event)
    _unwritable: set[UUID] = field(init=False, default_factory=set)
    _threads: list[threading.Thread] = field(init=False, default_factory=list)
    # Guards the fields below.
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _unreported: dict[TenantId, Outcome] = field(init=False, default_factory=dict)
    _reported_at: dict[TenantId, float] = field(init=False, default_factory=dict)
    _rebuilding: DamageRebuild | None = field(init=False, default=None)

    @property
    def nothing_can_be_written(self) -> bool:
        """Whether no Chroma server takes writes: every sync would fail."""
        return self._none_writable.is_set()

    @property
    def unwritable_servers(self) -> frozenset[UUID]:
        """The servers that took no write in the last probe: a sync there would fail, or hang."""
        return frozenset(self._unwritable)

    def start(self, on_return: Callable[[], None]) -> None:
        """Begin; ``on_return`` is called when a server takes writes again.

        Raises:
            PostgresUnavailable: the first heartbeat could not be recorded.

        """
        self.workers.heartbeat()
        self.metrics.ready()
        intervals = self.intervals
        for name, seconds, task in (
            ("heartbeat", intervals.heartbeat_seconds, self._heartbeat),
            ("probe", intervals.probe_seconds, lambda: self._probe(on_return)),
            ("repair", intervals.repair_seconds, self._repair),
            ("report", intervals.report_seconds, self._report),
            ("restore-watch", intervals.restore_watch_seconds, self.restore_watch.watch),
            ("empty", intervals.empty_seconds, self.retire_empty),
        ):
            thread = threading.Thread(
                target=self._run_every, args=(name, seconds, task), name=name, daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End all tasks; report the last outcomes and deregister the worker."""
        self._stop.set()
        with self._lock:
            if self._rebuilding is not None:
                self._rebuilding.stop()
        for thread in self._threads:
            thread.join()
        try:
            self._report(everything=True)
            self._record_freshness()
            self.workers.deregister()
        except PipelineError as error:
            log.warning(
                "shutdown_report_failed",
                reason=str(error),
                next="the worker counts as gone when its heartbeat expires",
            )

    def record(self, outcome: Outcome) -> None:
        """Count a turn; report it later, or probe the servers if it was postponed."""
        self.metrics.record(outcome)
        if outcome.verdict == "postponed":
            self._probe_due.set()
        if outcome.verdict == "done" and outcome.newest_change:
            self._report_later(outcome)

    def _report_later(self, outcome: Outcome) -> None:
        with self._lock:
            before = self._unreported.get(outcome.tenant)
            self._unreported[outcome.tenant] = before.plus(outcome) if before else outcome

    def _run_every(self, name: str, seconds: float, task: Callable[[], object]) -> None:
        while not self._stop.wait(seconds):
            try:
                task()
            except (ContractError, PostgresUnavailable):
                continue  # the loop logs it
            except Exception:
                # A bug in one task must not end the worker.
                log.exception(
                    "background_task_failed", task=name, next="the task runs again in some seconds"
                )

    # ---- heartbeat and probe

    def _heartbeat(self) -> None:
        self.workers.heartbeat()
        self._record_freshness()
        self.metrics.set_backlog(self.workers.backlog())

    def _record_freshness(self) -> None:
        self.workers.record_freshness(self.freshness.unreported())

    def _probe(self, on_return: Callable[[], None]) -> None:
        """Check which servers take writes, after a sync was postponed.

        Circuit breaker, one per server: while a server refuses writes, this probe is the only
        request sent to it. Tenants that fail for another reason keep their own back-off; this must
        not shorten it.
        """
        if not self._probe_due.is_set():
            return
        try:
            writable, unwritable = self.servers.writable_and_unwritable()
        except ChromaUnavailable:  # no server is registered yet
            writable, unwritable = set(), set()
        returned = bool(writable & self._unwritable) or (
            self._none_writable.is_set() and bool(writable)
        )
        self._unwritable = unwritable
        self.metrics.set_unwritable_servers(len(unwritable))
        if writable and not unwritable:
            self._probe_due.clear()
        if writable:
            self._none_writable.clear()
        else:
            self._none_writable.set()
        if returned:
            self.workers.resume_paused()
            on_return()

    # ---- repair

    def _repair(self) -> None:
        """Rebuild damaged tenants, one at a time; drop retired collections; replay dead letters."""
        for tenant in self.registry.damaged():
            if self._stop.is_set():
                return
            self._rebuild(tenant)
        self.drop_retired(limit=DROPS_AT_ONCE)
        if replayed := self.replay_cured():
            log.info("dead_letters_replayed", memories=replayed)
        self.resume_erasures()

    def _rebuild(self, tenant: TenantId) -> None:
        rebuild = self.rebuild()
        with self._lock:
            self._rebuilding = rebuild
            if self._stop.is_set():
                rebuild.stop()
        try:
            rebuilt = rebuild.alone(tenant)
        except PipelineError as error:
            rebuilt = Rebuilt(tenant, "failed", reason=str(error))
        finally:
            with self._lock:
                self._rebuilding = None
        if rebuilt.verdict == "failed":
            log.warning(
                "rebuild_failed",
                tenant=tenant,
                reason=rebuilt.reason,
                next="the changes wait; the rebuild is retried in a few seconds",
            )
        else:
            log.info("damaged_tenant_rebuild_ended", tenant=tenant, verdict=rebuilt.verdict)

    # ---- report

    def _report(self, *, everything: bool = False) -> None:
        """Report the synced tenants that are due; ``everything``: all of them."""
        outcomes = self._due(everything=everything)
        if not outcomes:
            return
        try:
            self.reporter.report(outcomes)
        except Exception as error:  # noqa: BLE001 - whatever it is, syncing continues
            log.warning(
                "dagster_report_failed",
                tenants=len(outcomes),
                reason=type(error).__name__,
                next="syncing continues; the outcomes are reported later",
            )
            for outcome in outcomes:
                self._report_later(outcome)

    def _due(self, *, everything: bool) -> list[Outcome]:
        """Take the outcomes of the tenants whose last report is old enough."""
        now, pause = self.clock.monotonic(), self.intervals.report_tenant_seconds
        with self._lock:
            due = [
                tenant
                for tenant in self._unreported
                if everything or now - self._reported_at.get(tenant, -math.inf) >= pause
            ]
            due = due if everything else due[:REPORT_TENANTS]
            self._reported_at |= dict.fromkeys(due, now)
            return [self._unreported.pop(tenant) for tenant in due]

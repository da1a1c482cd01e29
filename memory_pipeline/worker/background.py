"""A worker's background tasks. No change waits for them.

- heartbeat: record that the worker lives, and how fresh the tenants are
- probe: check whether a server that took no writes takes them again
- repair: rebuild damaged collections, drop retired ones, replay dead letters whose cause is gone,
  finish erasures
- empty: retire the collections of tenants without memories
- report: report synced tenants to Dagster
- restore watch: check whether Postgres went back in time
- forget: delete vectors and provenance of memories that are gone, where no change did

While the worker rests (quiet.py) each of them touches Postgres rarely.
"""

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
from memory_pipeline.worker.quiet import Quiet
from memory_pipeline.worker.reports import Reports

log = get_logger("memory_pipeline.worker.background")

REPORT = "report"
# These read whole tables, in statements that a worker that is asked to end does not wait for.
SWEEPS = frozenset({"forget", "empty"})
SWEEP_SECONDS = 5.0

DROPS_AT_ONCE = 3  # the next damaged tenant waits for them
# A worker that is asked to end waits no longer for Dagster's storage, which may hang.
LAST_REPORT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Intervals:
    """How often each task runs, in seconds.

    Attributes:
        heartbeat_seconds: a worker without a heartbeat for 15 s counts as gone, unless it rests.
        probe_seconds: a server that takes writes again is used within this time.
        repair_seconds: a damaged collection is noticed within this time.
        report_seconds: synced tenants are reported within this time, if one is due.
        report_tenant_seconds: one tenant is reported no more often, so that Dagster's tables do not
            grow with every change.
        report_retry_seconds: after a failure, Dagster is left alone for so long.
        restore_watch_seconds: each check costs queries, and a request to every server.
        forget_seconds: each time reads the ids of all memories.
        empty_seconds: each look for tenants without memories reads the whole table once.

    """

    heartbeat_seconds: float = 3.0
    probe_seconds: float = 1.0
    repair_seconds: float = 5.0
    report_seconds: float = 5.0
    report_tenant_seconds: float = 60.0
    report_retry_seconds: float = 30.0
    restore_watch_seconds: float = 10.0
    forget_seconds: float = 3600.0
    empty_seconds: float = 3600.0


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
        forget_gone: forgets some of the memories that are gone; returns their number.
        metrics: the figures for Prometheus.
        reporter: Dagster, or none.
        intervals: how often each task runs.
        quiet: when the tasks may touch Postgres.
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
    forget_gone: Callable[[], int]
    metrics: Meter
    reporter: Reporter
    intervals: Intervals = DEFAULT_INTERVALS
    quiet: Quiet = field(default_factory=Quiet)
    clock: Clock = SYSTEM_CLOCK
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    # Set by a postponed sync, until every server takes writes.
    _probe_due: threading.Event = field(init=False, default_factory=threading.Event)
    _none_writable: threading.Event = field(init=False, default_factory=threading.Event)
    _unwritable: set[UUID] = field(init=False, default_factory=set)
    _threads: list[threading.Thread] = field(init=False, default_factory=list)
    _reports: Reports = field(init=False)
    # Guards the field below.
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _rebuilding: DamageRebuild | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Make the queue of the outcomes that Dagster is told of."""
        self._reports = Reports(
            reporter=self.reporter,
            metrics=self.metrics,
            tenant_seconds=self.intervals.report_tenant_seconds,
            retry_seconds=self.intervals.report_retry_seconds,
            clock=self.clock,
        )

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
            (REPORT, intervals.report_seconds, self._reports.tell),
            ("restore-watch", intervals.restore_watch_seconds, self.restore_watch.watch),
            ("forget", intervals.forget_seconds, self._forget),
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
            if thread.name != REPORT:
                thread.join(SWEEP_SECONDS if thread.name in SWEEPS else None)
        self._report_last()
        self._while_ending(self._record_freshness)
        self._while_ending(self.workers.deregister)

    def _report_last(self) -> None:
        """Report what waits, as far as there is time; the storage may never answer."""
        until = self.clock.monotonic() + LAST_REPORT_SECONDS
        last = threading.Thread(
            target=self._while_ending, args=(self._reports.tell_everything,), daemon=True
        )
        for thread in (*(t for t in self._threads if t.name == REPORT), last):
            if thread is last:
                thread.start()
            thread.join(max(0.0, until - self.clock.monotonic()))
            if thread.is_alive():
                log.warning(
                    "last_report_abandoned",
                    tenants=len(self.reporter.waiting),
                    next="the worker ends; the next sync of these tenants is reported",
                )
                return

    def _while_ending(self, task: Callable[[], None]) -> None:
        try:
            task()
        except PipelineError as error:
            log.warning(
                "shutdown_report_failed",
                reason=str(error),
                next="the worker ends; it counts as gone when its heartbeat expires",
            )

    def record(self, outcome: Outcome) -> None:
        """Count a turn; report it later, or probe the servers if it was postponed."""
        self.quiet.work()
        self.metrics.record(outcome)
        if outcome.verdict == "postponed":
            self._probe_due.set()
        if outcome.verdict == "done" and outcome.newest_change:
            self._reports.add(outcome)

    def _run_every(self, name: str, seconds: float, task: Callable[[], object]) -> None:
        while not self._stop.wait(seconds):
            if not self.quiet.may_touch(name):
                continue
            try:
                task()
            except (ContractError, PostgresUnavailable) as error:
                self.quiet.missed(name)
                log.info("background_task_postponed", task=name, reason=str(error))
            except Exception:
                # A bug in one task must not end the worker.
                log.exception(
                    "background_task_failed", task=name, next="the task runs again in some seconds"
                )

    # ---- heartbeat and probe

    def _heartbeat(self) -> None:
        backlog = self.workers.backlog()
        if backlog.changes or backlog.erasures:  # also one that waits for later: a confirm, a pause
            self.quiet.work()
        idle_seconds = self.quiet.idle_seconds()
        rests = self.quiet.is_due() and not self._has_reports(idle_seconds)
        if rests and not self.quiet.rests:
            self.restore_watch.watch(seconds=idle_seconds)
        failing = self._reports.failing
        self.metrics.set_unreported_tenants(failing.tenants if failing else 0)
        self.workers.heartbeat(failing, quiet_seconds=self.quiet.seconds if rests else 0.0)
        self._record_freshness()
        self.metrics.set_backlog(backlog)
        if rests:
            self.quiet.rest(idle_seconds)

    def _has_reports(self, idle_seconds: float) -> bool:
        """Whether reports are due soon; where Dagster takes none, no rest waits for them."""
        patience = self.intervals.report_tenant_seconds + self.quiet.after_seconds
        return self._reports.any_left and idle_seconds < patience

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

    def _forget(self) -> None:
        while self.forget_gone() and not self._stop.is_set():
            continue

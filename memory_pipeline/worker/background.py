"""What a live process does besides syncing: says that it lives, tells how fresh things are, mends.

Five threads, none of which a change waits for: the pulse (heartbeat, freshness), the probe (is
Chroma back?), the mending (damaged collections are rebuilt, ended ones dropped), the lineage
and the source (did Postgres go back in time?).
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import (
    ChromaUnavailable,
    ContractError,
    PipelineError,
    PostgresUnavailable,
)
from memory_pipeline.logs import get_logger
from memory_pipeline.maintenance.cleanup import drop_retired
from memory_pipeline.maintenance.restore_watch import LOOK_SECONDS
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.ports import Reporter
from memory_pipeline.postgres.workers import HEARTBEAT_SECONDS
from memory_pipeline.rebuild.tenants import RebuildAll
from memory_pipeline.worker.metrics import Metrics

log = get_logger("memory_pipeline.worker.background")

PROBE_SECONDS = 1.0
REPAIR_SECONDS = 5.0
DROPS_AT_ONCE = 3
# Of one tenant in the UI; and of all of them, a minute.
REPORT_SECONDS = 5.0
REPORT_PER_TENANT_SECONDS = 60.0
REPORT_TENANTS = 25


class BackgroundTasks:
    """The threads beside the loop. What fails in them is logged and tried again."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        metrics: Metrics,
        reporter: Reporter,
    ) -> None:
        self._pipeline = pipeline
        self._workers = pipeline.workers
        self._freshness = pipeline.freshness
        self._metrics = metrics
        self._reporter = reporter
        self._stop = threading.Event()
        self._troubled = threading.Event()
        self._down = threading.Event()
        self._unwritable: set[UUID] = set()  # the servers that took no write when last asked
        self._lock = threading.Lock()  # of what follows
        self._unreported: dict[TenantId, Outcome] = {}
        self._reported_at: dict[TenantId, float] = {}
        self._rebuilding: RebuildAll | None = None
        self._threads: list[threading.Thread] = []

    @property
    def nothing_can_be_written(self) -> bool:
        """Whether no Chroma server takes writes: whatever is tried would fail."""
        return self._down.is_set()

    @property
    def unwritable_servers(self) -> frozenset[UUID]:
        """The servers that take no writes: what is tried there would fail, or hang."""
        return frozenset(self._unwritable)

    def start(self, back: Callable[[], None]) -> None:
        """Begin; ``back`` is called when Chroma is reachable again after it was not."""
        self._workers.heartbeat()
        self._metrics.ready()
        for name, seconds, work in (
            ("pulse", HEARTBEAT_SECONDS, self._heartbeat),
            ("probe", PROBE_SECONDS, lambda: self._probe(back)),
            ("mending", REPAIR_SECONDS, self._repair_damaged),
            ("lineage", REPORT_SECONDS, self._report),
            ("source", LOOK_SECONDS, self._pipeline.restore_watch.watch),
        ):
            thread = threading.Thread(
                target=self._run_every, args=(name, seconds, work), name=name, daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End all of it, and say so in Postgres."""
        self._stop.set()
        with self._lock:
            if self._rebuilding is not None:
                self._rebuilding.stop()
        for thread in self._threads:
            thread.join()
        try:
            self._report(all_of_it=True)
            self._record_freshness()
            self._workers.deregister()
        except PipelineError as error:
            log.warning("left_without_a_word", reason=str(error))

    def record(self, outcome: Outcome) -> None:
        """Take note of what a turn did."""
        self._metrics.record(outcome)
        if outcome.verdict == "postponed":
            self._troubled.set()
        if outcome.verdict == "done" and outcome.newest_change:
            self._remember(outcome)

    def _remember(self, outcome: Outcome) -> None:
        with self._lock:
            other = self._unreported.get(outcome.tenant)
            self._unreported[outcome.tenant] = _joined(other, outcome) if other else outcome

    def _run_every(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        while not self._stop.wait(seconds):
            try:
                work()
            except (ContractError, PostgresUnavailable):
                continue  # the loop says so
            except Exception:
                # Nothing of this may end what it is beside; it is tried again.
                log.exception("upkeep_failed", what=name)

    # ---- the pulse and the probe

    def _heartbeat(self) -> None:
        self._workers.heartbeat()
        self._record_freshness()
        self._metrics.set_backlog(self._workers.backlog())

    def _record_freshness(self) -> None:
        self._workers.record_freshness(self._freshness.unreported())

    def _probe(self, back: Callable[[], None]) -> None:
        """After a turn was postponed, ask which servers take writes; tell when one does again.

        This is the breaker of each server: while it is closed to writes nothing is tried there but
        this one write. What else may be the reason has its own pauses, which this must not shorten.
        """
        if not self._troubled.is_set():
            return
        try:
            writable, unwritable = self._pipeline.servers.writable_and_unwritable()
        except ChromaUnavailable:  # no server is named yet
            writable, unwritable = set(), set()
        returned = bool(writable & self._unwritable) or (self._down.is_set() and bool(writable))
        self._unwritable = unwritable
        self._metrics.set_unwritable_servers(len(unwritable))
        if writable and not unwritable:
            self._troubled.clear()
        if writable:
            self._down.clear()
        else:
            self._down.set()
        if returned:
            self._workers.resume_paused()
            back()

    # ---- mending

    def _repair_damaged(self) -> None:
        """Rebuild what is damaged, alone; drop what has ended."""
        for tenant in self._pipeline.registry.damaged():
            if self._stop.is_set():
                return
            rebuild = self._pipeline.rebuild()
            with self._lock:
                self._rebuilding = rebuild
                if self._stop.is_set():
                    rebuild.stop()
            try:
                rebuilt = rebuild.alone(tenant)
                log.info("mended", verdict=rebuilt.verdict, reason=rebuilt.reason)
            except PipelineError as error:
                log.warning("not_mended", reason=str(error))
            finally:
                with self._lock:
                    self._rebuilding = None
        drop_retired(
            self._pipeline.registry,
            self._pipeline.index,
            grace_seconds=self._pipeline.settings.retire_seconds,
            limit=DROPS_AT_ONCE,
        )
        if replayed := self._pipeline.replay_cured():
            log.info("dead_letters_replayed", memories=replayed)

    # ---- lineage

    def _report(self, *, all_of_it: bool = False) -> None:
        """Report tenants that were synced: each of them, and all, only so often."""
        now = time.monotonic()
        with self._lock:
            due = [
                tenant
                for tenant in self._unreported
                if all_of_it
                or now - self._reported_at.get(tenant, -math.inf) >= REPORT_PER_TENANT_SECONDS
            ]
            due = due if all_of_it else due[:REPORT_TENANTS]
            outcomes = [self._unreported.pop(tenant) for tenant in due]
            self._reported_at |= dict.fromkeys(due, now)
        if not outcomes:
            return
        try:
            self._reporter.report(outcomes)
        except Exception as error:  # noqa: BLE001 - whatever it is, syncing goes on
            log.warning("lineage_waits", tenants=len(outcomes), reason=type(error).__name__)
            for outcome in outcomes:
                self._remember(outcome)


def _joined(before: Outcome, now: Outcome) -> Outcome:
    """Join what two turns of one tenant did, in whatever order."""
    return replace(
        now,
        written=before.written + now.written,
        deleted=before.deleted + now.deleted,
        embedded=before.embedded + now.embedded,
        reused=before.reused + now.reused,
        failed=before.failed + now.failed,
        buried=before.buried + now.buried,
        seconds=before.seconds + now.seconds,
        embed_seconds=before.embed_seconds + now.embed_seconds,
        write_seconds=before.write_seconds + now.write_seconds,
        newest_change=max(before.newest_change, now.newest_change),
    )

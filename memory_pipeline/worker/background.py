"""What a live process does besides syncing: says that it lives, tells how fresh things are, mends.

Five threads, none of which a change waits for: the pulse (heartbeat, freshness), the probe (is
Chroma back?), the mending (damaged collections are rebuilt, ended ones dropped), the lineage
and the source (did Postgres go back in time?).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from memory_pipeline.domain.types import Outcome, TenantId
from memory_pipeline.errors import (
    ChromaUnavailable,
    ContractError,
    PipelineError,
    PostgresUnavailable,
)
from memory_pipeline.logs import get_logger
from memory_pipeline.maintenance.cleanup import drop_ended
from memory_pipeline.maintenance.restore_watch import LOOK_SECONDS
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.ports import Lineage
from memory_pipeline.postgres.workers import BEAT_SECONDS
from memory_pipeline.rebuild.tenants import RebuildAll
from memory_pipeline.worker.metrics import Metrics

log = get_logger("memory_pipeline.worker.background")

PROBE_SECONDS = 1.0
MEND_SECONDS = 5.0
DROPS_AT_ONCE = 3
# Of one tenant in the UI; and of all of them, a minute.
LINEAGE_SECONDS = 5.0
LINEAGE_A_TENANT_SECONDS = 60.0
LINEAGE_AT_ONCE = 25


class Upkeep:
    """The threads beside the loop. What fails in them is logged and tried again."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        metrics: Metrics,
        lineage: Lineage,
    ) -> None:
        self._pipeline = pipeline
        self._workers = pipeline.workers
        self._freshness = pipeline.freshness
        self._metrics = metrics
        self._lineage = lineage
        self._stop = threading.Event()
        self._troubled = threading.Event()
        self._down = threading.Event()
        self._closed: set[UUID] = set()  # the servers that took no write when last asked
        self._lock = threading.Lock()  # of what follows
        self._untold: dict[TenantId, Outcome] = {}
        self._told_at: dict[TenantId, float] = {}
        self._rebuilding: RebuildAll | None = None
        self._threads: list[threading.Thread] = []

    @property
    def nothing_can_be_written(self) -> bool:
        """Whether no Chroma server takes writes: whatever is tried would fail."""
        return self._down.is_set()

    @property
    def closed_servers(self) -> frozenset[UUID]:
        """The servers that take no writes: what is tried there would fail, or hang."""
        return frozenset(self._closed)

    def start(self, back: Callable[[], None]) -> None:
        """Begin; ``back`` is called when Chroma is reachable again after it was not."""
        self._workers.beat()
        self._metrics.ready()
        for name, seconds, work in (
            ("pulse", BEAT_SECONDS, self._pulse),
            ("probe", PROBE_SECONDS, lambda: self._probe(back)),
            ("mending", MEND_SECONDS, self._mend),
            ("lineage", LINEAGE_SECONDS, self._tell),
            ("source", LOOK_SECONDS, self._pipeline.source.watch),
        ):
            thread = threading.Thread(
                target=self._again_and_again, args=(name, seconds, work), name=name, daemon=True
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
            self._tell(all_of_it=True)
            self._record_freshness()
            self._workers.leave()
        except PipelineError as error:
            log.warning("left_without_a_word", reason=str(error))

    def note(self, outcome: Outcome) -> None:
        """Take note of what a turn did."""
        self._metrics.note(outcome)
        if outcome.verdict == "postponed":
            self._troubled.set()
        if outcome.verdict == "done" and outcome.newest_change:
            self._remember(outcome)

    def _remember(self, outcome: Outcome) -> None:
        with self._lock:
            other = self._untold.get(outcome.tenant)
            self._untold[outcome.tenant] = _together(other, outcome) if other else outcome

    def _again_and_again(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        while not self._stop.wait(seconds):
            try:
                work()
            except (ContractError, PostgresUnavailable):
                continue  # the loop says so
            except Exception:
                # Nothing of this may end what it is beside; it is tried again.
                log.exception("upkeep_failed", what=name)

    # ---- the pulse and the probe

    def _pulse(self) -> None:
        self._workers.beat()
        self._record_freshness()
        self._metrics.waiting(self._workers.backlog())

    def _record_freshness(self) -> None:
        self._workers.record_freshness(self._freshness.untold())

    def _probe(self, back: Callable[[], None]) -> None:
        """After a turn was postponed, ask which servers take writes; tell when one does again.

        This is the breaker of each server: while it is closed to writes nothing is tried there but
        this one write. What else may be the reason has its own pauses, which this must not shorten.
        """
        if not self._troubled.is_set():
            return
        try:
            open_, closed = self._pipeline.servers.open_and_closed()
        except ChromaUnavailable:  # no server is named yet
            open_, closed = set(), set()
        returned = bool(open_ & self._closed) or (self._down.is_set() and bool(open_))
        self._closed = closed
        self._metrics.closed(len(closed))
        if open_ and not closed:
            self._troubled.clear()
        if open_:
            self._down.clear()
        else:
            self._down.set()
        if returned:
            self._workers.resume_paused()
            back()

    # ---- mending

    def _mend(self) -> None:
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
        drop_ended(
            self._pipeline.registry,
            self._pipeline.index,
            grace_seconds=self._pipeline.settings.retire_seconds,
            limit=DROPS_AT_ONCE,
        )
        if replayed := self._pipeline.replay_cured():
            log.info("dead_letters_replayed", memories=replayed)

    # ---- lineage

    def _tell(self, *, all_of_it: bool = False) -> None:
        """Report tenants that were synced: each of them, and all, only so often."""
        now = time.monotonic()
        with self._lock:
            due = [
                tenant
                for tenant in self._untold
                if all_of_it or now - self._told_at.get(tenant, 0.0) >= LINEAGE_A_TENANT_SECONDS
            ]
            due = due if all_of_it else due[:LINEAGE_AT_ONCE]
            outcomes = [self._untold.pop(tenant) for tenant in due]
            self._told_at |= dict.fromkeys(due, now)
        if not outcomes:
            return
        try:
            self._lineage.report(outcomes)
        except Exception as error:  # noqa: BLE001 - whatever it is, syncing goes on
            log.warning("lineage_waits", tenants=len(outcomes), reason=type(error).__name__)
            for outcome in outcomes:
                self._remember(outcome)


def _together(before: Outcome, now: Outcome) -> Outcome:
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

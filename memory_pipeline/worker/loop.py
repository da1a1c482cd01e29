"""The worker: syncs each change within milliseconds of its commit.

wake → query pending tenants → start turns → sync → record. Any number of workers may run; leases
keep them apart.

1. a hint from Postgres or the next poll wakes the loop; polling alone finds every change. While the
   worker rests (quiet.py) polls are rare
2. one query returns the tenants with changes, oldest first; it takes at most a fifth of the time
3. the scheduler chooses the tenants; a turn is one batch of one tenant, in a thread of the pool
4. the outcome of each turn goes to the background tasks: Postgres, Dagster and Prometheus

``stop`` lets the running turns end, and no lease is left behind. The leases of a killed worker
expire.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import (
    ContractError,
    EmbedderUnavailable,
    ModelMissing,
    PipelineError,
    PostgresUnavailable,
)
from memory_pipeline.logs import get_logger
from memory_pipeline.worker.background import BackgroundTasks
from memory_pipeline.worker.ports import Hints, Model, Outbox, TenantSync
from memory_pipeline.worker.tenant_scheduler import TenantScheduler

log = get_logger("memory_pipeline.worker.loop")

# While a server writes one batch, others are read and embedded, and small ones fit in between.
TURNS_PER_SERVER = 4
MAX_TURNS = 16
# The share of the time that the query of pending tenants may take: 20 ms for a thousand tenants.
QUERY_SHARE = 0.2
POSTGRES_RETRY_SECONDS = 1.0
LEAST_WAIT_SECONDS = 0.001
POLL = "poll"


@dataclass(eq=False, kw_only=True)
class Worker:
    """Syncs every tenant from ``run`` until ``stop``.

    Attributes:
        outbox: the pending tenants.
        sync: syncs one batch of a tenant.
        embedder: the model, loaded before the first turn.
        connect_chroma: connects to the Chroma servers before the first turn.
        listen: makes the listener for hints; its argument wakes the loop.
        background: the tasks next to the loop.
        poll_seconds: how often pending tenants are queried without a hint.
        servers: the number of Chroma servers.
        clock: measures turns, pauses and queries.

    """

    outbox: Outbox
    sync: TenantSync
    embedder: Model
    connect_chroma: Callable[[], object]
    listen: Callable[[Callable[[], None]], Hints]
    background: BackgroundTasks
    poll_seconds: float
    servers: int
    clock: Clock = SYSTEM_CLOCK
    _scheduler: TenantScheduler = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)  # of the scheduler
    _wake: threading.Event = field(init=False, default_factory=threading.Event)
    _hinted: threading.Event = field(init=False, default_factory=threading.Event)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    _queried_at: float = field(init=False, default=0.0)
    _query_seconds: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._scheduler = TenantScheduler(
            min(MAX_TURNS, TURNS_PER_SERVER * max(1, self.servers)), TURNS_PER_SERVER
        )

    def stop(self) -> None:
        """Ask the loop to stop. Returns at once; safe in a signal handler and in any thread."""
        # In its own thread: the handler may have interrupted the loop while it held these locks.
        threading.Thread(target=self._end, name="stop", daemon=True).start()

    def _end(self) -> None:
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Sync until ``stop`` is called; then wait for the running turns.

        Raises:
            PostgresUnavailable: at the start; a later failure is waited out.

        """
        self._warm_up()
        self.background.quiet.watch(self._wake.set)
        listener = self.listen(self._hint)
        self.background.start(self._retry_now)
        listener.start()
        try:
            with ThreadPoolExecutor(self._scheduler.concurrency, thread_name_prefix="turn") as pool:
                while not self._stop.is_set():
                    self._start_turns(pool)
                    self._wait()
        finally:
            listener.stop()
            self.background.stop()

    def _warm_up(self) -> None:
        """Load imports, the model and the first connections before the worker is ready."""
        try:
            self.embedder.load()
        except (ModelMissing, EmbedderUnavailable) as error:
            log.warning(
                "model_not_loaded",
                reason=str(error),
                next="tenants whose pending memories all have a vector are synced; others wait",
            )
        self.outbox.pending_tenants()
        with suppress(PipelineError):  # Chroma may start later
            self.connect_chroma()

    def _start_turns(self, pool: ThreadPoolExecutor) -> None:
        """Query pending tenants, if that is due, and start the turns that have a slot."""
        try:
            if self._query_due():
                self._query_pending()
        except (ContractError, PostgresUnavailable) as error:  # a dump is being loaded, perhaps
            log.warning(
                "postgres_unavailable",
                reason=str(error),
                next="pending changes wait in the outbox; the query is retried in a second",
            )
            self.background.quiet.missed(POLL)
            self._stop.wait(POSTGRES_RETRY_SECONDS)
        if self.background.nothing_can_be_written:
            return
        with self._lock:
            tenants = self._scheduler.start_next(
                self.clock.monotonic(), unwritable=self.background.unwritable_servers
            )
        for tenant in tenants:
            pool.submit(self._run_turn, tenant)

    def _query_due(self) -> bool:
        since = self.clock.monotonic() - self._queried_at
        if since < self._query_seconds / QUERY_SHARE:
            return False
        if self._hinted.is_set():
            return True
        return since >= self.poll_seconds and self.background.quiet.may_touch(POLL)

    def _query_pending(self) -> None:
        self._hinted.clear()  # before the query: a hint from now on causes another one
        began = self.clock.monotonic()
        pending = {p.tenant: p.server for p in self.outbox.pending_tenants()}
        if pending:
            self.background.quiet.work()
        self._queried_at = self.clock.monotonic()
        self._query_seconds = self._queried_at - began
        with self._lock:
            self._scheduler.update_pending(pending, pending)

    def _wait(self) -> None:
        """Wait for a wake-up, the next query or the end of a pause."""
        now = self.clock.monotonic()
        hinted = self._hinted.is_set()
        interval = self._query_seconds / QUERY_SHARE if hinted else self.poll_seconds
        most = interval - (now - self._queried_at)
        if not hinted:
            most = max(most, self.background.quiet.seconds_until_touch(POLL))
        with self._lock:
            seconds = self._scheduler.wait_seconds(now, max(LEAST_WAIT_SECONDS, most))
        self._wake.wait(seconds)
        self._wake.clear()

    def _run_turn(self, tenant: TenantId) -> None:
        """Sync one batch of a tenant. No error of a tenant's affects another tenant."""
        outcome = Outcome(tenant, "postponed")
        try:
            outcome = self.sync.run(tenant, once=True)
        except PostgresUnavailable as error:
            log.warning(
                "sync_lost_postgres",
                tenant=tenant,
                reason=str(error),
                next="the changes wait; the lease expires, then the tenant is retried",
            )
            outcome = Outcome(tenant, "fenced")  # not the tenant's fault: a short pause
        except PipelineError as error:
            log.warning(
                "sync_failed",
                tenant=tenant,
                reason=str(error),
                next="the changes wait; the tenant is retried after a growing pause",
            )
        except Exception:
            # A bug of this program: the tenant backs off, and the others continue.
            log.exception(
                "sync_crashed",
                tenant=tenant,
                next="the changes wait; the tenant is retried after a growing pause",
            )
        finally:
            with self._lock:
                self._scheduler.finish(outcome, self.clock.monotonic())
            self.background.record(outcome)
            self._wake.set()

    def _hint(self) -> None:
        self._hinted.set()
        self._wake.set()

    def _retry_now(self) -> None:
        """End every pause: a server takes writes again."""
        with self._lock:
            self._scheduler.reset_backoff()
        self._hint()

"""The resident process: syncs each change within milliseconds of its commit.

wake → ask who has changes → hand out turns → sync → tell. Any number of such processes may run;
leases keep them apart.

1. a hint from Postgres or the next poll wakes it; polling alone finds everything
2. one query tells who has changes, oldest first; no more than a fifth of the time goes into it
3. ``turns`` says whose turn it is; a turn is one batch of one tenant, in a thread of the pool
4. what each turn did is told to the upkeep, which tells Postgres, Dagster and whoever measures

It ends when it is told to: turns under way end by themselves, and no lease is left behind. One that
is killed loses its leases to the clock.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

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
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.listener import Listener
from memory_pipeline.worker.background import BackgroundTasks
from memory_pipeline.worker.tenant_scheduler import TenantScheduler

log = get_logger("memory_pipeline.worker.loop")

# Of each Chroma server; while one batch is written others are read, and small ones slip between.
TURNS_PER_SERVER = 4
MAX_TURNS = 16
# Of the time since the last question; with a thousand tenants waiting it costs 20 ms.
ASKING_SHARE = 0.2
DOWN_SECONDS = 1.0


class Worker:
    """Syncs until ``stop`` is called."""

    def __init__(self, pipeline: Pipeline, background: BackgroundTasks) -> None:
        self._pipeline = pipeline
        self._background = background
        self._poll_seconds = pipeline.settings.poll_seconds
        self._sync = pipeline.sync()
        servers = len(pipeline.settings.chroma_addresses())
        self._scheduler = TenantScheduler(
            min(MAX_TURNS, TURNS_PER_SERVER * max(1, servers)), TURNS_PER_SERVER
        )
        self._lock = threading.Lock()  # of the turns
        self._wake = threading.Event()
        self._hinted = threading.Event()
        self._stop = threading.Event()
        self._asked_at = self._asking_seconds = 0.0

    def stop(self) -> None:
        """End soon; may be called by a signal handler, whatever the loop is at."""
        # In a thread of its own: the handler may have interrupted the loop in these very locks.
        threading.Thread(target=self._end, name="stop", daemon=True).start()

    def _end(self) -> None:
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Sync until told to stop; then wait for the turns under way.

        Raises:
            PostgresUnavailable: at the start; what breaks later is waited for.

        """
        self._warm()
        listener = Listener(self._pipeline.database.url, self._hint)
        self._background.start(self._back)
        listener.start()
        try:
            with ThreadPoolExecutor(self._scheduler.concurrency, thread_name_prefix="turn") as pool:
                while not self._stop.is_set():
                    self._round(pool)
                    self._wait()
        finally:
            listener.stop()
            self._background.stop()

    def _warm(self) -> None:
        """Pay for imports, the model and the first connections before it is called ready."""
        try:
            self._pipeline.embedder.load()
        except (ModelMissing, EmbedderUnavailable) as error:  # stored vectors need no model
            log.warning("no_model", reason=str(error))
        self._pipeline.outbox.pending_tenants()
        with suppress(PipelineError):  # Chroma may come later
            self._pipeline.index.servers()

    def _round(self, pool: ThreadPoolExecutor) -> None:
        """Ask who has changes, if it is time to, and begin the turns that there is room for."""
        try:
            if self._is_time_to_ask():
                self._ask()
        except (ContractError, PostgresUnavailable) as error:  # a dump is being loaded, say
            log.warning("postgres_down", reason=str(error))
            self._stop.wait(DOWN_SECONDS)
        if self._background.nothing_can_be_written:
            return
        with self._lock:
            begun = self._scheduler.start_next(
                time.monotonic(), unwritable=self._background.unwritable_servers
            )
        for tenant in begun:
            pool.submit(self._turn, tenant)

    def _is_time_to_ask(self) -> bool:
        since = time.monotonic() - self._asked_at
        wanted = self._hinted.is_set() or since >= self._poll_seconds
        return wanted and since >= self._asking_seconds / ASKING_SHARE

    def _ask(self) -> None:
        self._hinted.clear()  # first: what is hinted at from now on is asked for again
        began = time.monotonic()
        pending = {p.tenant: p.server for p in self._pipeline.outbox.pending_tenants()}
        self._asked_at = time.monotonic()
        self._asking_seconds = self._asked_at - began
        with self._lock:
            self._scheduler.update_pending(pending, pending)

    def _wait(self) -> None:
        now = time.monotonic()
        most = self._poll_seconds - (now - self._asked_at)
        if self._hinted.is_set():
            most = self._asking_seconds / ASKING_SHARE - (now - self._asked_at)
        with self._lock:
            seconds = self._scheduler.wait_seconds(now, max(0.001, most))
        self._wake.wait(seconds)
        self._wake.clear()

    def _turn(self, tenant: TenantId) -> None:
        """Sync one batch of a tenant. Whatever happens to it happens to nobody else."""
        outcome = Outcome(tenant, "postponed")
        try:
            outcome = self._sync.run(tenant, once=True)
        except PostgresUnavailable as error:
            log.warning("turn_cut_off", reason=str(error))
            outcome = Outcome(tenant, "fenced")  # no trouble of the tenant's
        except PipelineError as error:
            log.warning("turn_failed", reason=str(error))
        except Exception:
            # A fault of ours: this tenant waits, longer each time, and the others go on.
            log.exception("turn_broke")
        finally:
            with self._lock:
                self._scheduler.finish(outcome, time.monotonic())
            self._background.record(outcome)
            self._wake.set()

    def _hint(self) -> None:
        self._hinted.set()
        self._wake.set()

    def _back(self) -> None:
        """What tenants waited for is back."""
        with self._lock:
            self._scheduler.reset_backoff()
        self._hint()

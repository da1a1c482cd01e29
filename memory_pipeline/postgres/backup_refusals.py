"""What a refused backup means, how it is named without any content, and where it is recorded."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.errors import PipelineError
from memory_pipeline.logs import get_logger
from memory_pipeline.postgres.database import Connection, Database, queries
from memory_pipeline.postgres.update_triggers import UpdateTrigger, one_of

log = get_logger("memory_pipeline.postgres.backup_refusals")

# Raised by memory_pipeline.refuse_backup().
CHANGES_THE_MEMORY = "MP001"
# Another transaction was first, or holds what a trigger needs: the next attempt may succeed.
RACES = frozenset({"40001", "40P01", "55P03"})
# The server is short of something, broken, or a standby: the other statements fail too. 08 is
# absent: where the connection stands, it is a trigger's own connection that broke.
OUTAGE_CLASSES = frozenset({"53", "58"})
OUTAGES = frozenset({"25006", "25P03", "25P04"})
# A cached plan uses tables or types that were made again: Database connects anew.
STALE_PLAN = "RevalidateCachedQuery"
STALE_TYPES = frozenset({"42704", "XX000"})
# A process that was never refused still ends what another one has recorded.
CLEAR_SECONDS = 30.0
LOG_AGAIN_SECONDS = 3600.0


class BackupRefused(PipelineError):
    """Postgres refuses a backup, with this error; its message may quote a memory."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(_condition(error))
        self.error = error

    @property
    def timed_out(self) -> bool:
        """Whether the statement was cancelled."""
        return self.error.sqlstate == "57014"


class BackupRaced(PipelineError):
    """Another transaction was in the way of a backup."""


@contextmanager
def refusals() -> Iterator[None]:
    """Translate what the backup's statement raises.

    Raises:
        BackupRefused: whatever Postgres has against this statement.
        BackupRaced: the row, or what a trigger needs, was in the hands of another transaction.
        psycopg.Error: Postgres itself is not available, or has changed; as for any statement.

    """
    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate or ""
        stale = error.diag.source_function == STALE_PLAN
        down = error.diag.severity_nonlocalized in {"FATAL", "PANIC"}
        if not state or down or stale or state in OUTAGES or state[:2] in OUTAGE_CLASSES:
            raise
        if state in RACES:
            raise BackupRaced(_condition(error)) from error
        raise BackupRefused(error) from error


def left_out(triggers: Sequence[UpdateTrigger]) -> str:
    """Return the reason where the row was locked, and the UPDATE did not reach it."""
    return f"{_may_change(triggers)} leaves out the UPDATE of the row"


def reason_of(refusal: BackupRefused, triggers: Sequence[UpdateTrigger]) -> str:
    """Name the condition and what raised it. Its message may quote a memory, and is left out."""
    error = refusal.error
    if error.sqlstate == CHANGES_THE_MEMORY:
        return f"{_may_change(triggers)} changes what is stored with the vector"
    if error.diag.constraint_name:
        return f"{_condition(error)} by constraint {error.diag.constraint_name}"
    context = error.diag.context or ""
    # "PL/pgSQL function name() line 1": the words around the name depend on the server's language.
    raised = [
        t for t in triggers if t.function and re.search(rf"\b{re.escape(t.function)}\(", context)
    ]
    return f"{_condition(error)} by {one_of(raised)}" if raised else _condition(error)


def _may_change(triggers: Sequence[UpdateTrigger]) -> str:
    return one_of([t for t in triggers if t.before_row]) or "a trigger"


def _condition(error: psycopg.Error) -> str:
    if type(error).__module__ != "psycopg.errors" or not hasattr(type(error), "sqlstate"):
        return f"error {error.sqlstate}"
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(error).__name__).lower()
    return f"{name} ({error.sqlstate})"


class RefusalRecord:
    """What is known of refused backups: recorded in Postgres for every process, logged once."""

    def __init__(self, database: Database, backup: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database = database
        self._backup = backup
        self._clock = clock
        self._recorded = True  # perhaps by another process
        self._cleared_at = 0.0
        self._logged: dict[str, float] = {}

    def record(self, reason: str, memories: int) -> None:
        """Record that backups of so many memories were refused; log a reason once an hour."""
        with self._database.statement() as connection:
            queries().record_backup_refusal(
                connection, backup=self._backup, reason=reason, memories=memories
            )
        self._recorded = True
        now = self._clock.monotonic()
        if now - self._logged.get(reason, -LOG_AGAIN_SECONDS) < LOG_AGAIN_SECONDS:
            return
        self._logged[reason] = now
        log.warning(
            "vector_backup_refused",
            reason=reason,
            backup=self._backup,
            next="documents are written all the same; a rebuild computes these vectors again; "
            "`memory-pipeline status` names the setting that ends it",
        )

    def clear(self) -> None:
        """Record that backups succeed, unless that was done just before."""
        now = self._clock.monotonic()
        if not self._recorded and now - self._cleared_at < CLEAR_SECONDS:
            return
        with self._database.statement() as connection:
            queries().clear_backup_refusal(connection)
        self._recorded, self._cleared_at = False, now


@contextmanager
def cancelled_after(connection: Connection, seconds: float) -> Iterator[None]:
    """Cancel a statement that takes longer: the lease of whoever waits for it must not end."""
    timer = threading.Timer(seconds, _cancel, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _cancel(connection: Connection) -> None:
    try:
        connection.cancel_safe(timeout=1.0)
    except psycopg.Error as error:
        log.info("backup_cancel_failed", reason=type(error).__name__)

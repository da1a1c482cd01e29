"""DDL while the application runs: it waits for no lock, or all others would queue behind it."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from memory_pipeline.errors import ContractError
from memory_pipeline.postgres.database import Connection, Database

# While DDL waits for a lock, every later statement of the application waits behind it.
LOCK_TIMEOUT_MILLISECONDS = 200
LOCK_PATIENCE_SECONDS = 60.0
# A process that is frozen, or cut off, between two statements must not block the application.
IDLE_MILLISECONDS = 5000


def patient_attempts() -> Retrying:
    """Return attempts, each of which may raise LockNotAvailable; the first success ends them.

    Raises:
        ContractError: no attempt succeeded for a minute.

    """
    return Retrying(
        retry=retry_if_exception_type(psycopg.errors.LockNotAvailable),
        wait=wait_random_exponential(multiplier=1, max=8),
        stop=stop_after_delay(LOCK_PATIENCE_SECONDS),
        retry_error_callback=_locked_out,
    )


@contextmanager
def hasty_transaction(database: Database) -> Iterator[Connection]:
    """Run a transaction that fails rather than wait for a lock. Raises LockNotAvailable."""
    with database.transaction() as connection:
        connection.execute(
            "SELECT set_config(name, value, true) FROM (VALUES ('lock_timeout', %s),"
            " ('idle_in_transaction_session_timeout', %s)) AS wanted (name, value)",
            (f"{LOCK_TIMEOUT_MILLISECONDS}ms", f"{IDLE_MILLISECONDS}ms"),
        )
        yield connection


def _locked_out(state: RetryCallState) -> None:
    raise ContractError(
        "memory_logs or the outbox was locked by another transaction for "
        f"{LOCK_PATIENCE_SECONDS:.0f} s; end it and run the command again"
    ) from (state.outcome.exception() if state.outcome else None)

"""Connections to Postgres, the named queries, and the translation of its errors.

Every query is in ``queries/*.sql``; no other module writes SQL.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, Self

import aiosql
import psycopg
from pgvector.psycopg import register_vector
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import TupleRow, namedtuple_row
from psycopg_pool import ConnectionPool, PoolTimeout

from memory_pipeline.errors import ContractError, InvalidMemory, PipelineError, PostgresUnavailable
from memory_pipeline.redact import without_password
from memory_pipeline.settings import Settings

Connection = psycopg.Connection[TupleRow]

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 60
# How long a connection stays open unused; shorter where an open one keeps a database awake.
UNUSED_SECONDS = 60.0
UNUSED_QUIET_SECONDS = 10.0
# A worker that freezes inside a transaction must not hold rows or a snapshot for long.
IDLE_IN_TRANSACTION_SECONDS = 10


class BinaryCursor(psycopg.Cursor[Any]):
    """A cursor with binary results: vectors arrive seven times as fast as in text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.format = Format.BINARY


@cache
def queries() -> Any:
    """Load the named queries, once."""
    folder = files("memory_pipeline.postgres") / "queries"
    return aiosql.from_path(str(folder), "psycopg", mandatory_parameters=False)


class Database:
    """A pool of connections to the database of ``memory_logs``, opened as they are needed.

    Thread-safe. A rebuild uses two for each tenant it works on, three on each Chroma server.
    """

    def __init__(self, url: str, *, size: int = 24, unused_seconds: float = UNUSED_SECONDS) -> None:
        self.url = url
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            min_size=0,
            max_size=size,
            open=False,
            timeout=CONNECT_SECONDS,
            max_idle=unused_seconds,
            check=ConnectionPool.check_connection,
            kwargs={
                "connect_timeout": CONNECT_SECONDS,
                "application_name": "memory_pipeline",
                "row_factory": namedtuple_row,
                "cursor_factory": BinaryCursor,
            },
            configure=_configure,
            name="memory_pipeline",
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Take the address from the settings. Raises PostgresUnavailable when there is none."""
        if settings.database_url is None:
            raise PostgresUnavailable(
                "Postgres is not running here: start it with `memory-pipeline up`, "
                "or set MEMORY_PIPELINE_DATABASE_URL",
                sent=False,
            )
        quiet = settings.quiet_seconds > 0
        return cls(
            settings.database_url.get_secret_value(),
            unused_seconds=UNUSED_QUIET_SECONDS if quiet else UNUSED_SECONDS,
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run a short transaction. Network calls to anything but Postgres do not belong inside.

        Raises:
            PostgresUnavailable: Postgres cannot be reached, or the connection broke; whether a
                commit under way took place is not known.
            ContractError: the pipeline's schema is missing.

        """
        try:
            self._open()
            with self._pool.connection() as connection:
                yield connection
        except PipelineError:
            raise
        except psycopg.errors.LockNotAvailable:
            raise  # the caller set lock_timeout and handles it
        except (
            psycopg.OperationalError,
            # This process was frozen inside the transaction.
            psycopg.errors.IdleInTransactionSessionTimeout,
            psycopg.errors.TransactionTimeout,
            # A standby answers, until it is promoted or the address points elsewhere.
            psycopg.errors.ReadOnlySqlTransaction,
            PoolTimeout,
        ) as error:
            raise PostgresUnavailable(
                f"Postgres at {without_password(self.url)} is not available: {_first_line(error)}"
            ) from error
        except psycopg.errors.FeatureNotSupported as error:
            # A cached plan of this connection uses tables or types that were created again since.
            self.reconnect()
            raise PostgresUnavailable(f"Postgres has changed: {_first_line(error)}") from error
        except (
            psycopg.errors.UndefinedTable,
            psycopg.errors.UndefinedColumn,
            psycopg.errors.UndefinedFunction,
            psycopg.errors.InvalidSchemaName,
        ) as error:
            raise ContractError(
                f"the pipeline's tables are missing or of another version ({_first_line(error)}): "
                "run `memory-pipeline migrate`"
            ) from error
        except psycopg.DataError as error:
            if error.sqlstate is not None:
                raise  # the caller sent the value and reports what Postgres says of it
            raise InvalidMemory("a text has a NUL character, which Postgres cannot hold") from error
        except UnicodeEncodeError as error:
            raise InvalidMemory("a text has a lone surrogate, which is no Unicode") from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise ContractError(
                f"the database role lacks a grant: {_first_line(error)}; "
                "`memory-pipeline migrate --sql` prints those that it needs"
            ) from error

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """Run one statement that is a transaction by itself. Raises what ``transaction`` does.

        Its locks end when Postgres has executed it, whatever happens to this process or to the
        network. Whatever touches ``memory_logs`` is a single statement where possible.
        """
        with self.transaction() as connection:
            connection.autocommit = True
            try:
                yield connection
            finally:
                # The pool discards a connection that broke or is still busy.
                if connection.info.transaction_status is TransactionStatus.IDLE:
                    connection.autocommit = False

    def reconnect(self) -> None:
        """Use new connections: the old ones cache tables and types that have changed."""
        if not self._pool.closed:
            self._pool.drain()

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def _open(self) -> None:
        if self._pool.closed:
            # A pool reports only a timeout; a first connection reports the reason, and at once.
            psycopg.connect(self.url, connect_timeout=CONNECT_SECONDS).close()
            self._pool.open()


def _configure(connection: Connection) -> None:
    connection.execute(
        "SELECT set_config(name, value, false) FROM (VALUES ('statement_timeout', %s),"
        " ('idle_in_transaction_session_timeout', %s)) AS wanted (name, value)",
        (f"{STATEMENT_SECONDS}s", f"{IDLE_IN_TRANSACTION_SECONDS}s"),
    )
    row = connection.execute("SELECT to_regtype('vector') IS NOT NULL AS known").fetchone()
    if row is not None and row[0]:
        register_vector(connection)
    connection.commit()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

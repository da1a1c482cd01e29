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
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from psycopg_pool import ConnectionPool, PoolTimeout

from memory_pipeline.domain.table import MEMORY_LOGS, Table
from memory_pipeline.errors import (
    ContractError,
    InvalidMemory,
    PipelineError,
    PostgresUnavailable,
    SettingsError,
)
from memory_pipeline.postgres.connection import (
    ALL_ROWS,
    APPLICATION_NAME,
    CONNECT_SECONDS,
    Connection,
    Limits,
    PipelineConnection,
    PipelineCursor,
)
from memory_pipeline.redact import without_password
from memory_pipeline.settings import Settings

__all__ = ["CONNECT_SECONDS", "Connection", "Database", "queries"]

# How long a connection stays open unused; shorter where an open one keeps a database awake.
UNUSED_SECONDS = 60.0
UNUSED_QUIET_SECONDS = 10.0


@cache
def queries() -> Any:
    """Load the named queries, once."""
    folder = files("memory_pipeline.postgres") / "queries"
    return aiosql.from_path(str(folder), "psycopg", mandatory_parameters=False)


class Database:
    """A pool of connections to the database of ``memory_logs``, opened as they are needed.

    Thread-safe. A rebuild uses two for each tenant it works on, three on each Chroma server.

    Args:
        url: the address, of the server or of a pooler before it, in any mode.
        table: the table of the memories.
        may_differ: whether the index may be of another table than that; for ``migrate`` alone.
        size: the most connections.
        unused_seconds: how long a connection stays open unused.

    """

    def __init__(
        self,
        url: str,
        *,
        table: Table = MEMORY_LOGS,
        may_differ: bool = False,
        size: int = 24,
        unused_seconds: float = UNUSED_SECONDS,
    ) -> None:
        self.url = url
        self.table = table
        self._may_differ = may_differ
        self._pool: ConnectionPool[PipelineConnection] = ConnectionPool(
            url,
            connection_class=PipelineConnection,
            min_size=0,
            max_size=size,
            open=False,
            timeout=CONNECT_SECONDS,
            max_idle=unused_seconds,
            check=ConnectionPool.check_connection,
            kwargs={
                "connect_timeout": CONNECT_SECONDS,
                "application_name": APPLICATION_NAME,
                "row_factory": namedtuple_row,
                "cursor_factory": PipelineCursor,
            },
            configure=self._configure,
            name="memory_pipeline",
        )

    @classmethod
    def from_settings(cls, settings: Settings, *, may_differ: bool = False) -> Self:
        """Take address and table from the settings. Raises PostgresUnavailable without address."""
        if settings.database_url is None:
            raise PostgresUnavailable(
                "Postgres is not running here: start it with `memory-pipeline up`, "
                "or set MEMORY_PIPELINE_DATABASE_URL",
                sent=False,
            )
        quiet = settings.quiet_seconds > 0
        return cls(
            settings.database_url.get_secret_value(),
            table=Table.parse(settings.table),
            may_differ=may_differ,
            unused_seconds=UNUSED_QUIET_SECONDS if quiet else UNUSED_SECONDS,
        )

    @contextmanager
    def transaction(self, limits: Limits = ALL_ROWS) -> Iterator[Connection]:
        """Run a short transaction. Network calls to anything but Postgres do not belong inside.

        Raises:
            PostgresUnavailable: Postgres cannot be reached, or the connection broke; whether a
                commit under way took place is not known.
            ContractError: the pipeline's schema is missing, or the role lacks a grant or may not
                see all rows.

        """
        with self._connected() as connection:
            connection.begin(limits)
            yield connection

    @contextmanager
    def statement(self, limits: Limits = ALL_ROWS) -> Iterator[Connection]:
        """Run one statement that is a transaction by itself. Raises what ``transaction`` does.

        Its locks end when Postgres has executed it, whatever happens to this process or to the
        network. Whatever touches ``memory_logs`` is a single statement where possible.
        """
        with self._connected() as connection:
            try:
                with connection.single_statements(limits):
                    yield connection
            finally:
                # The pool discards a connection that broke or is still busy.
                if connection.info.transaction_status is TransactionStatus.IDLE:
                    connection.autocommit = False

    @contextmanager
    def _connected(self) -> Iterator[PipelineConnection]:
        """Take a connection; raise what Postgres refuses as one of the pipeline's own errors."""
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
            raise ContractError(_refusal(error)) from error

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
            with psycopg.connect(self.url, connect_timeout=CONNECT_SECONDS) as connection:
                self._check_table(connection)
            self._pool.open()

    def _check_table(self, connection: psycopg.Connection[Any]) -> None:
        """Refuse another table than the index is of: its memories would replace all documents."""
        if self._may_differ or not queries().schema_exists(connection):
            return
        try:
            attached = queries().attached_table(connection)
        except psycopg.errors.InsufficientPrivilege:
            return  # a role of an application, which writes memories and cannot sync
        if attached not in {None, str(self.table)}:
            raise SettingsError(
                f"MEMORY_PIPELINE_TABLE={str(self.table)!r}: the index of this database is of "
                f"{attached}; set MEMORY_PIPELINE_TABLE={attached}, or, where that table was "
                "renamed, run `memory-pipeline migrate` with the new name"
            )

    def _configure(self, connection: PipelineConnection) -> None:
        connection.table = self.table
        connection.introduce()


def _refusal(error: psycopg.Error) -> str:
    """Return what a role lacks. Messages are translated, names of functions are not."""
    if error.diag.source_function != "check_enable_rls":
        return (
            f"the database role lacks a grant: {_first_line(error)}; "
            "`memory-pipeline migrate --sql` prints those that it needs"
        )
    return (
        f"row level security hides rows from this database role ({_first_line(error)}). A hidden "
        "row would be taken for a deleted one, so nothing was done: let a DBA run ALTER ROLE with "
        "the name of the role and BYPASSRLS, or DISABLE ROW LEVEL SECURITY on that table"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

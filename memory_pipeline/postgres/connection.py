"""Connections that a pooler may share: no state of a session, and the settings that each needs.

A pooler in transaction mode hands a server's session to another client after each transaction. So
nothing is set for a session (no SET, no LISTEN, no advisory lock of a session), and behind a pooler
nothing is prepared on the server: every transaction brings its settings along and Postgres forgets
them at its end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from pgvector.psycopg.vector import register_vector_info
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg.types import TypeInfo

from memory_pipeline.domain.table import MEMORY_LOGS, Table

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 60
# A worker that freezes inside a transaction must not hold rows or a snapshot for long.
IDLE_IN_TRANSACTION_SECONDS = 10
APPLICATION_NAME = "memory_pipeline"

_LIMITS = (
    "SELECT set_config('row_security', %s, true), set_config('statement_timeout', %s, true),"
    " set_config('idle_in_transaction_session_timeout', %s, true)"
)
# Types by the catalog: the extension may be in a schema that is not on the search_path.
_VECTOR = """
SELECT t.oid, t.typarray
FROM pg_extension e
JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
                AND d.classid = 'pg_type'::regclass AND d.deptype = 'e'
JOIN pg_type t ON t.oid = d.objid AND t.typname = 'vector'
WHERE e.extname = 'vector'
"""

Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a transaction may do.

    Attributes:
        sees_all_rows: Postgres raises an error rather than leave out rows that the role may not
            see (``row_security = off``): a row that is left out would be taken for a deleted one.
            An application's own writes are left to its policies.

    """

    sees_all_rows: bool = True

    @property
    def parameters(self) -> tuple[str, str, str]:
        """The parameters of the statement that sets the limits."""
        row_security = "off" if self.sees_all_rows else "on"
        return row_security, f"{STATEMENT_SECONDS}s", f"{IDLE_IN_TRANSACTION_SECONDS}s"


ALL_ROWS = Limits()
# An application's writes are held to its policies.
AS_APPLICATION = Limits(sees_all_rows=False)


class TableCursor(psycopg.Cursor[Any]):
    """A cursor that puts the table of the settings where a query names ``public.memory_logs``.

    The name has a checked form, is put in double quotes and never comes from data.
    """

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Execute a query on the table of the settings."""
        return super().execute(self._named(query), params, **options)

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        """Execute a query on the table of the settings, once for each of the parameters."""
        super().executemany(self._named(query), params_seq, **options)

    def stream(self, query: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        """Iterate over the rows of a query on the table of the settings."""
        return super().stream(self._named(query), params, **options)

    @contextmanager
    def copy(self, statement: Any, params: Any = None, **options: Any) -> Iterator[psycopg.Copy]:
        """Copy from or to the table of the settings."""
        with super().copy(self._named(statement), params, **options) as copy:
            yield copy

    def _named(self, query: Any) -> Any:
        connection = self.connection
        if isinstance(query, str) and isinstance(connection, PipelineConnection):
            return with_table(query, connection.table)
        return query


class PipelineCursor(TableCursor):
    """A cursor with binary results, whose statements carry their settings.

    Vectors arrive seven times as fast in binary as in text.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.format = Format.BINARY

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Execute a query; outside a transaction, in a transaction with limits, in one message.

        The COMMIT is already on its way: the locks do not wait for this process.
        """
        connection = self.connection
        if not isinstance(connection, PipelineConnection) or connection.limits is None:
            return super().execute(query, params, **options)
        control = psycopg.Cursor(connection)
        errors: list[psycopg.Error] = []
        with _kept(errors), connection.pipeline(), _kept(errors):
            # Without BEGIN and COMMIT, psycopg does not know an error of the commit.
            control.execute("BEGIN", prepare=False)
            connection.limit(connection.limits)
            super().execute(query, params, **options)
            control.execute("COMMIT", prepare=False)
        if errors:
            connection.end_failed()
            raise errors[0]
        return self


class PipelineConnection(psycopg.Connection[TupleRow]):
    """A connection to the database of the memories.

    Attributes:
        table: the table that queries mean by ``public.memory_logs``.
        limits: what each statement outside a transaction carries; None: nothing.

    """

    table: Table = MEMORY_LOGS
    limits: Limits | None = None

    @contextmanager
    def single_statements(self, limits: Limits) -> Iterator[None]:
        """Make each statement a transaction by itself, with these limits."""
        self.autocommit = True
        self.limits = limits
        try:
            yield
        finally:
            self.limits = None

    def begin(self, limits: Limits) -> None:
        """Begin a transaction with these limits, in one round trip."""
        with self.pipeline():
            self.limit(limits)

    def end_failed(self) -> None:
        """End what a statement that failed has begun.

        psycopg takes a statement for prepared as soon as it has sent it; a rollback has it forget
        all of them.
        """
        status = self.info.transaction_status
        if status in {TransactionStatus.INERROR, TransactionStatus.INTRANS}:
            self.rollback()
        elif status is not TransactionStatus.IDLE:
            self.close()

    def limit(self, limits: Limits) -> None:
        """Limit the transaction under way."""
        psycopg.Cursor(self, row_factory=tuple_row).execute(_LIMITS, limits.parameters)

    def introduce(self) -> None:
        """Learn the type of vectors, and whether a pooler stands between; change no session."""
        vector = psycopg.Cursor(self, row_factory=tuple_row).execute(_VECTOR).fetchone()
        if is_pooled(self):
            self.prepare_threshold = None
        self.commit()
        if vector is not None:
            register_vector_info(self, TypeInfo("vector", *vector))


@contextmanager
def _kept(errors: list[psycopg.Error]) -> Iterator[None]:
    """Keep an error: psycopg logs one that passes through the end of a pipeline."""
    try:
        yield
    except psycopg.Error as error:
        errors.append(error)


def is_pooled(connection: psycopg.Connection[Any]) -> bool:
    """Whether a pooler stands between: the session is then not this connection's own.

    A pooler invents the process that a client would cancel, for it has none of its own to name.
    """
    row = psycopg.Cursor(connection, row_factory=tuple_row).execute("SELECT pg_backend_pid()")
    return row.fetchone() != (connection.info.backend_pid,)


def connect(url: str, table: Table = MEMORY_LOGS, *, autocommit: bool = False) -> Connection:
    """Open a connection for DDL: statements in text, nothing prepared, no limits."""
    connection = PipelineConnection.connect(
        url,
        autocommit=autocommit,
        connect_timeout=CONNECT_SECONDS,
        application_name=APPLICATION_NAME,
        cursor_factory=TableCursor,
        prepare_threshold=None,
    )
    connection.table = table
    return connection


def with_table(query: str, table: Table) -> str:
    """Return a query on this table."""
    return query if table == MEMORY_LOGS else query.replace("public.memory_logs", table.quoted)

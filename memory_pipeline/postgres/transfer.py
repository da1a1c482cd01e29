"""Stores the memories of an import, and reads those of an export: each in one transaction."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import psycopg
from psycopg.rows import args_row

from memory_pipeline.domain.outcomes import Stored
from memory_pipeline.domain.types import NewMemory, TenantId
from memory_pipeline.postgres.database import Connection, Database, queries
from memory_pipeline.postgres.refusals import refusal, refusals

# Rows that the server sends at once, of which this process holds no more.
ROWS_AT_ONCE = 1000

Refused = Callable[[NewMemory, str], None]


class PostgresTransfer:
    """Memories in bulk: in, and out again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def store(
        self, batches: Iterable[Sequence[NewMemory]], *, refused: Refused, once: bool
    ) -> Stored:
        """Store memories in one transaction, but for those that Postgres refuses.

        1. Each batch is a savepoint.
        2. Of a refused batch each half is tried by itself, and so on: no error of Postgres names
           the row reliably, for a trigger or a foreign key is checked after the whole statement.
        3. ``refused`` is called with each memory that is refused alone; where it raises, nothing
           is stored.

        Args:
            batches: the memories.
            refused: takes a memory that Postgres refuses, and the reason without its content.
            once: each memory has an external id; a known one is updated where it has changed.

        """
        stored = Stored()
        with refusals(), self._database.transaction() as connection:
            started = queries().begin_transfer(connection)
            if once:
                queries().lock_imports(connection)
            for batch in batches:
                waiting = [batch]
                while waiting:
                    part = waiting.pop()
                    try:
                        stored += _store(connection, part, started, once=once)
                    except psycopg.Error as error:
                        reason = refusal(error)
                        if reason is None:
                            raise
                    else:
                        continue
                    half = len(part) // 2
                    if half:
                        waiting += [part[half:], part[:half]]
                    else:
                        refused(part[0], f"Postgres refuses this memory: {reason}")
        return stored

    def export(self, tenants: Sequence[TenantId] | None) -> Iterator[str]:
        """Iterate over the memories of one snapshot, as JSON lines, in the order of their ids."""
        with self._database.transaction() as connection:
            queries().begin_transfer(connection)
            with connection.cursor(row_factory=args_row(str)) as cursor:
                yield from cursor.stream(
                    queries().export.sql,
                    {"tenants": None if tenants is None else list(tenants)},
                    size=ROWS_AT_ONCE,
                )

    def without_tenant(self) -> int:
        """Count the rows that belong to no tenant."""
        with self._database.statement() as connection:
            return int(queries().without_tenant(connection))


def _store(
    connection: Connection, memories: Sequence[NewMemory], started: str, *, once: bool
) -> Stored:
    """Store memories in a savepoint, and check what could be checked later."""
    with connection.transaction():
        stored = _merge(connection, memories) if once else _copy(connection, memories, started)
        queries().check_constraints(connection)
        queries().defer_constraints(connection)
    return stored


def _copy(connection: Connection, memories: Sequence[NewMemory], started: str) -> Stored:
    with connection.cursor() as cursor:
        with cursor.copy(queries().copy_in.sql) as copy:
            for new in memories:
                copy.write_row((new.user_id, new.project_id, new.raw, new.created_at or started))
        return Stored(imported=cursor.rowcount, dropped=len(memories) - cursor.rowcount)


def _merge(connection: Connection, memories: Sequence[NewMemory]) -> Stored:
    outcomes: list[str] = []
    with connection.cursor(row_factory=args_row(str)) as cursor:
        cursor.executemany(
            queries().import_once.sql,
            [
                {
                    "user_id": new.user_id,
                    "project_id": new.project_id,
                    "raw": new.raw,
                    "created_at": new.created_at,
                    "external_id": new.external_id,
                }
                for new in memories
            ],
            returning=True,
        )
        outcomes = [outcome for result in cursor.results() for outcome in result]
    return Stored(
        imported=outcomes.count("imported"),
        updated=outcomes.count("updated"),
        unchanged=outcomes.count("unchanged"),
        dropped=outcomes.count("dropped"),
    )

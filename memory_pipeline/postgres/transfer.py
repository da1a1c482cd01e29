"""Stores the memories of an import, and reads those of an export: each in one transaction."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import psycopg
from psycopg.rows import args_row

from memory_pipeline.domain.outcomes import Stored
from memory_pipeline.domain.types import NewMemory, TenantId
from memory_pipeline.postgres.connection import AS_APPLICATION
from memory_pipeline.postgres.database import Connection, Database, queries
from memory_pipeline.postgres.refusals import refusal, refusals

# Rows that the server sends at once, of which this process holds no more.
ROWS_AT_ONCE = 1000

Refused = Callable[[NewMemory, str], None]
Store = Callable[[Connection, Sequence[NewMemory]], Stored]


class PostgresTransfer:
    """Memories in bulk: in, and out again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def store(
        self, batches: Iterable[Sequence[NewMemory]], *, refused: Refused, once: bool
    ) -> Stored:
        """Store memories in one transaction, but for those that Postgres refuses.

        Args:
            batches: the memories.
            refused: takes a memory that Postgres refuses, and the reason without its content;
                where it raises, nothing is stored.
            once: each memory has an external id; a known one is updated where it has changed.

        Raises:
            InvalidMemory: Postgres refuses the transaction at its end; nothing is stored.
            PostgresUnavailable: Postgres cannot be reached; nothing is stored, but for a connection
                that broke at the very end, when all may be.
            ContractError: this database is not migrated, or its role lacks a grant.

        """
        with refusals(), self._database.transaction(AS_APPLICATION) as connection:
            started = queries().begin_transfer(connection)
            if once:
                queries().lock_imports(connection)
            store: Store = _merge if once else partial(_copy, started=started)
            stored = Stored()
            for batch in batches:
                stored += _store_or_halve(connection, batch, store, refused)
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


def _store_or_halve(
    connection: Connection, batch: Sequence[NewMemory], store: Store, refused: Refused
) -> Stored:
    """Store a batch in a savepoint; of a refused one each half by itself, and so on.

    No error of Postgres names the row reliably: a trigger, a foreign key or a deferred constraint
    is checked when other rows have followed.
    """
    stored = Stored()
    waiting = [batch]
    while waiting:
        part = waiting.pop()
        reason = None
        try:
            with connection.transaction():
                done = store(connection, part)
                queries().check_constraints(connection)
                queries().defer_constraints(connection)
        except psycopg.Error as error:
            reason = refusal(error)
            if reason is None:
                raise
        # Outside of the except block: what is raised here must not carry the error of Postgres.
        if reason is None:
            stored += done
        elif len(part) == 1:
            refused(part[0], f"Postgres refuses this memory: {reason}")
        else:
            half = len(part) // 2
            waiting += [part[half:], part[:half]]
    return stored


def _copy(connection: Connection, memories: Sequence[NewMemory], *, started: str) -> Stored:
    with connection.cursor() as cursor:
        with cursor.copy(queries().copy_in.sql) as copy:
            for new in memories:
                copy.write_row((new.user_id, new.project_id, new.raw, new.created_at or started))
        return Stored(imported=cursor.rowcount, dropped=len(memories) - cursor.rowcount)


def _merge(connection: Connection, memories: Sequence[NewMemory]) -> Stored:
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

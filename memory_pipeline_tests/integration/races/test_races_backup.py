"""The embedding backup next to the application, in Postgres alone."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

from memory_pipeline.domain.types import (
    MemoryId,
)
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.settings import Settings
from memory_pipeline_tests.integration.races.words import OURS, PROVENANCE
from memory_pipeline_tests.words import one, remember


def test_the_backup_skips_what_the_application_holds(
    db: psycopg.Connection, database_url: str, memories: PostgresMemories
) -> None:
    """P6: the backup waits for nobody, so no application can be a deadlock's victim."""
    free, held = (MemoryId(remember(db)) for _ in range(2))
    rows, _ = memories.read([free, held])
    with ThreadPoolExecutor(1) as threads, psycopg.connect(database_url) as application:
        application.execute("SET lock_timeout = '200ms'")
        application.execute("UPDATE memory_logs SET raw_data = '1' WHERE id = %s", (held,))
        backing_up = threads.submit(
            memories.back_up, {i: (rows[i], OURS, PROVENANCE) for i in (held, free)}
        )
        try:
            assert backing_up.result(timeout=5) == {free}
        finally:
            application.execute("UPDATE memory_logs SET raw_data = '2' WHERE id = %s", (free,))
            application.commit()

    assert one(db, "SELECT raw_data FROM memory_logs WHERE id = %s", held) == 1
    assert one(db, "SELECT raw_data FROM memory_logs WHERE id = %s", free) == 2


def test_a_backup_that_stops_after_its_statement_holds_no_row(
    db: psycopg.Connection,
    database_url: str,
    memories: PostgresMemories,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P6: frozen there, or cut off from Postgres, it would make the application wait till it ends.

    What broke: a stalled link between the statement and its commit, and an UPDATE waited for it.
    """
    memory = MemoryId(remember(db))
    rows, _ = memories.read([memory])
    back_up = queries().back_up

    def stopped(connection: psycopg.Connection, **what: Any) -> list[Any]:
        done = list(back_up(connection, **what))
        with psycopg.connect(database_url, autocommit=True) as application:
            application.execute("SET lock_timeout = '200ms'")
            application.execute("UPDATE memory_logs SET raw_data = '1' WHERE id = %s", (memory,))
        return done

    monkeypatch.setattr(queries(), "back_up", stopped)
    assert memories.back_up({memory: (rows[memory], OURS, PROVENANCE)}) == {memory}
    assert one(db, "SELECT count(*) FROM memory_pipeline.provenance") == 1


def test_a_backup_waits_for_nobody_while_it_holds_rows(
    db: psycopg.Connection, database_url: str, memories: PostgresMemories
) -> None:
    """P6: not for another worker either, frozen in the middle of an ack; it comes again later."""
    memory = MemoryId(remember(db))
    rows, _ = memories.read([memory])
    given = {memory: (rows[memory], OURS, PROVENANCE)}
    with psycopg.connect(database_url) as other:
        other.execute(
            "INSERT INTO memory_pipeline.provenance (memory_id, text_hash, model, vector_hash)"
            " VALUES (%s, 'a', 'b', 'c')",
            (memory,),
        )
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(memories.back_up, given).result(timeout=5) == frozenset()
    assert one(db, "SELECT embedding IS NULL FROM memory_logs WHERE id = %s", memory)
    assert memories.back_up(given) == {memory}


def test_a_repeatable_read_application_is_spared_in_every_row_that_it_touched(
    db: psycopg.Connection, database_url: str, memories: PostgresMemories
) -> None:
    """Only a row that it reads first and writes after the backup remains, as is said."""
    touched, other = (MemoryId(remember(db)) for _ in range(2))
    rows, _ = memories.read([touched, other])
    with psycopg.connect(database_url) as application:
        application.isolation_level = IsolationLevel.REPEATABLE_READ
        application.execute("SET LOCAL lock_timeout = '200ms'")
        application.execute("SELECT FROM memory_logs WHERE id = %s FOR UPDATE", (touched,))
        with ThreadPoolExecutor(1) as threads:
            stored = threads.submit(
                memories.back_up, {i: (rows[i], OURS, PROVENANCE) for i in rows}
            ).result(timeout=5)
        application.execute("UPDATE memory_logs SET raw_data = '[]' WHERE id = %s", (touched,))

    assert stored == {other}


def test_with_the_backup_off_a_repeatable_read_application_never_has_to_retry(
    db: psycopg.Connection, database_url: str, database: Database, limits: Settings
) -> None:
    """The named residual goes away with backup=off."""
    memory_id = MemoryId(remember(db))
    memories = PostgresMemories(database, limits.model_copy(update={"backup": "off"}))
    rows, _ = memories.read([memory_id])
    with psycopg.connect(database_url) as application:
        application.isolation_level = IsolationLevel.REPEATABLE_READ
        application.execute("SELECT FROM memory_logs")
        assert memories.back_up({memory_id: (rows[memory_id], OURS, PROVENANCE)}) == {memory_id}
        application.execute("UPDATE memory_logs SET raw_data = '[]'")

    assert one(db, "SELECT embedding IS NULL FROM memory_logs")


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE memory_logs SET embedding = array_fill(0.25, ARRAY[768])::vector",
        "UPDATE memory_logs SET raw_data = '{}'",
        "UPDATE memory_logs SET user_id = 'bob'",
        "UPDATE memory_logs SET id = 99",
        "DELETE FROM memory_logs",
    ],
)
def test_the_backup_overwrites_nothing_that_moved_since_it_was_read(
    db: psycopg.Connection, memories: PostgresMemories, write: str
) -> None:
    """Compare-and-set on the row's version; neither vector nor provenance is stored."""
    memory_id = MemoryId(remember(db))
    rows, _ = memories.read([memory_id])
    db.execute(write)
    before = list(db.execute("SELECT id, user_id, raw_data, embedding::text FROM memory_logs"))

    assert memories.back_up({memory_id: (rows[memory_id], OURS, PROVENANCE)}) == frozenset()

    assert before == list(
        db.execute("SELECT id, user_id, raw_data, embedding::text FROM memory_logs")
    )
    assert one(db, "SELECT count(*) FROM memory_pipeline.provenance") == 0

"""The pipeline's own embedding backup is not captured; what others write meanwhile is."""

from dataclasses import dataclass

import numpy as np
import psycopg
import pytest

from memory_pipeline.domain.types import MemoryId, Provenance
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.settings import Settings
from memory_pipeline_tests.integration.capture.words import ANOTHER_VECTOR, changes
from memory_pipeline_tests.words import one


@dataclass(frozen=True, slots=True)
class Backup:
    """The pipeline's embedding backup of one memory."""

    memories: PostgresMemories

    def of(self, memory_id: int) -> bool:
        """Read the memory as the heart does and store a vector; say whether it was stored."""
        rows, _ = self.memories.read([MemoryId(memory_id)])
        memory = rows[MemoryId(memory_id)]
        vector = np.full(768, 0.5, dtype=np.float32)
        stored = self.memories.back_up({memory.id: (memory, vector, Provenance("t", "m", "v"))})
        return memory.id in stored


@pytest.fixture
def backup(database: Database, database_url: str) -> Backup:
    """Return the pipeline's embedding backup."""
    return Backup(PostgresMemories(database, Settings.load(database_url=database_url)))


def test_the_pipelines_own_backup_is_no_change(
    db: psycopg.Connection, memory: int, backup: Backup
) -> None:
    """P2: storing a vector does not ask for the memory to be embedded again."""
    assert backup.of(memory)

    assert one(db, "SELECT count(*) FROM memory_logs WHERE embedding::text ~ '0.5'") == 1
    assert changes(db) == []


def assign(db: psycopg.Connection, assignment: str) -> None:
    """Have a trigger of the application assign a column on each update."""
    db.execute(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN {assignment}; RETURN NEW; END $$".encode()
    )
    db.execute(
        "CREATE TRIGGER touch BEFORE UPDATE ON memory_logs FOR EACH ROW EXECUTE FUNCTION touch()"
    )


def test_what_a_users_trigger_does_during_the_backup_is_captured(
    db: psycopg.Connection, memory: int, backup: Backup
) -> None:
    """The backup is recognised only where embedding alone changed."""
    assign(db, "NEW.updated_at := clock_timestamp()")

    assert backup.of(memory)

    assert ("ada", memory) in changes(db)


@pytest.mark.parametrize(
    "assignment",
    [
        'NEW.raw_data := \'{"by": "trigger"}\'',
        "NEW.project_id := 'zeus'",
        "NEW.created_at := '2020-02-02'",
        "NEW.user_id := 'bob'",
        "NEW.id := 99",
        "NEW.embedding := NULL",
    ],
)
def test_a_backup_that_would_change_the_memory_is_undone(
    db: psycopg.Connection, memory: int, backup: Backup, assignment: str
) -> None:
    """No memory is moved, or gets another text, because its vector is stored.

    What broke: a trigger that counts the updates in raw_data. Each backup made another text, which
    was embedded and backed up, for ever.
    """
    assign(db, assignment)
    before = db.execute("SELECT ctid, m.* FROM memory_logs m").fetchall()

    assert backup.of(memory)  # it is not waited for

    assert db.execute("SELECT ctid, m.* FROM memory_logs m").fetchall() == before
    assert changes(db) == []


def test_a_users_write_in_another_row_during_the_backup_is_captured(
    db: psycopg.Connection, memory: int, backup: Backup
) -> None:
    """The mark covers vectors alone, not whatever else the transaction does."""
    db.execute(
        "CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO memory_logs (id, user_id, raw_data) VALUES (2, 'bob', '{}');"
        " RETURN NULL; END $$"
    )
    db.execute(
        "CREATE TRIGGER echo AFTER UPDATE ON memory_logs FOR EACH ROW EXECUTE FUNCTION echo()"
    )

    assert backup.of(memory)

    assert changes(db) == [("bob", 2)]


def test_the_mark_of_another_transaction_is_not_believed(
    db: psycopg.Connection, memory: int, database_url: str
) -> None:
    """A mark that outlives its transaction, or was copied, suppresses nothing."""
    with psycopg.connect(database_url) as other:
        other.execute(
            "SELECT set_config('memory_pipeline.backup', pg_current_xact_id()::text, false)"
        )
        row = other.execute("SELECT current_setting('memory_pipeline.backup')").fetchone()
        assert row is not None
        db.execute("SELECT set_config('memory_pipeline.backup', %s, false)", row)
        db.execute(f"UPDATE memory_logs SET embedding = {ANOTHER_VECTOR}")
        assert changes(db) == [("ada", memory)]
        other.commit()

        other.execute("UPDATE memory_logs SET embedding = NULL")
        other.commit()

    assert changes(db) == [("ada", memory), ("ada", memory)]


@pytest.mark.parametrize("mark", ["", "0", "on", "not a number", "-1", "99999999999999999999999"])
def test_a_senseless_mark_breaks_no_write(db: psycopg.Connection, memory: int, mark: str) -> None:
    """P6: whatever an application puts in the setting, its statement succeeds and is captured."""
    db.execute("SELECT set_config('memory_pipeline.backup', %s, false)", (mark,))
    db.execute("UPDATE memory_logs SET embedding = NULL")

    assert changes(db) == [("ada", memory)]

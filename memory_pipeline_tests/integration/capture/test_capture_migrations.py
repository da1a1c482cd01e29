"""Capture next to the application's DDL, and what migrate reports and repairs."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ContractError
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.postgres.status import PostgresStatus
from memory_pipeline.settings import Settings
from memory_pipeline_tests.integration.capture.words import changes
from memory_pipeline_tests.words import one, remember


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE memory_logs",
        "TRUNCATE memory_logs RESTART IDENTITY CASCADE",
        "ALTER TABLE memory_logs ADD COLUMN mood text DEFAULT 'good'",
        "ALTER TABLE memory_logs ALTER COLUMN user_id TYPE varchar(200)",
        "ALTER TABLE memory_logs ALTER COLUMN created_at TYPE timestamp",
        "ALTER TABLE memory_logs ALTER COLUMN project_id SET NOT NULL",
        "ALTER TABLE memory_logs DROP CONSTRAINT memory_logs_pkey",
        "CREATE INDEX ON memory_logs USING hnsw (embedding vector_cosine_ops)",
        "ALTER TABLE memory_logs RENAME TO memories",
        "DROP TABLE memory_logs",
    ],
)
def test_nothing_of_the_pipeline_stands_in_the_way_of_the_owners_ddl(
    db: psycopg.Connection, statement: str
) -> None:
    """No foreign key and no view refers to memory_logs."""
    db.execute(statement)

    assert (
        one(
            db,
            "SELECT count(*) FROM pg_constraint"
            " WHERE contype = 'f' AND confrelid = to_regclass('public.memory_logs')",
        )
        == 0
    )


def test_rows_are_captured_after_a_column_was_added(
    db: psycopg.Connection, database_url: str
) -> None:
    """P6: a session that has written before goes on writing."""
    before = remember(db)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("ALTER TABLE memory_logs ADD COLUMN mood text DEFAULT 'good'")
    after = remember(db)

    assert changes(db) == [("ada", before), ("ada", after)]


def test_migrate_never_makes_the_application_wait_for_its_lock(
    db: psycopg.Connection,
    memory: int,
    database_url: str,
    wait_until: Callable[..., None],
) -> None:
    """DDL queued behind an open transaction gives way, again and again, then succeeds."""
    other = remember(db, "bob")
    db.execute("ALTER TABLE memory_logs ENABLE TRIGGER memory_pipeline_capture")  # no longer ALWAYS
    with (
        ThreadPoolExecutor(1) as threads,
        psycopg.connect(database_url) as holder,
        psycopg.connect(database_url, autocommit=True) as application,
    ):
        application.execute("SET lock_timeout = '500ms'")
        holder.execute("UPDATE memory_logs SET raw_data = '{}' WHERE id = %s", (memory,))
        migrating = threads.submit(migrate, Settings.load(database_url=database_url))
        for text in "abc":
            wait_until(
                lambda: one(
                    db,
                    "SELECT count(*) FROM pg_locks WHERE NOT granted"
                    " AND relation = 'memory_logs'::regclass",
                ),
                within=20,
            )
            application.execute(
                "UPDATE memory_logs SET project_id = %s WHERE id = %s", (text, other)
            )
        assert not migrating.done()
        holder.rollback()

        migrating.result(timeout=20)

    assert changes(db).count(("bob", other)) == 4


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        pytest.param(
            [
                "ALTER TABLE memory_logs DISABLE TRIGGER USER",
                "ALTER TABLE memory_logs ENABLE TRIGGER USER",
            ],
            ["memory_pipeline_capture: O", "memory_pipeline_truncate: O"],
            id="disabled and enabled",
        ),
        pytest.param(
            ["ALTER TABLE memory_logs DISABLE TRIGGER ALL"],
            ["memory_pipeline_capture: D", "memory_pipeline_truncate: D"],
            id="disabled",
        ),
        pytest.param(
            ["DROP TRIGGER memory_pipeline_truncate ON memory_logs"],
            ["memory_pipeline_truncate: missing"],
            id="dropped",
        ),
        pytest.param(
            [
                "ALTER TABLE memory_logs RENAME TO old_logs",
                "CREATE TABLE memory_logs (LIKE old_logs INCLUDING ALL)",
            ],
            ["memory_pipeline_capture: missing", "memory_pipeline_truncate: missing"],
            id="table swapped",
        ),
    ],
)
def test_broken_capture_is_reported_and_cured_by_migrate(
    db: psycopg.Connection,
    database: Database,
    database_url: str,
    damage: list[str],
    broken: list[str],
) -> None:
    """P8: a trigger that is gone, off or no longer ALWAYS is said, and set right."""
    status = PostgresStatus(database)
    assert status.broken_capture() == []
    for statement in damage:
        db.execute(statement)
    assert sorted(status.broken_capture()) == broken

    migrate(Settings.load(database_url=database_url))

    assert status.broken_capture() == []
    db.execute("SET session_replication_role = replica")
    db.execute("INSERT INTO memory_logs (id, user_id, raw_data) VALUES (50, 'ada', '{}')")
    assert ("ada", 50) in changes(db)


def test_what_was_missed_while_capture_was_broken_is_pending_after_migrate(
    db: psycopg.Connection, database: Database, database_url: str
) -> None:
    """P1: who repairs the triggers also reconciles what slipped by, as at the first attach."""
    PostgresRegistry(database).register(TenantId("ada"))
    db.execute("ALTER TABLE memory_logs DISABLE TRIGGER USER")
    remember(db, "ada")
    remember(db, "new")

    migrate(Settings.load(database_url=database_url))

    assert sorted(changes(db)) == [("ada", None), ("new", None)]


def test_a_publication_for_all_tables_is_refused_with_advice(
    db: psycopg.Connection, database_url: str
) -> None:
    """Replicated outbox rows would collide on the subscriber and stop replication."""
    db.execute("CREATE PUBLICATION everything FOR ALL TABLES")

    with pytest.raises(ContractError, match=r"everything is FOR ALL TABLES.*by name instead"):
        migrate(Settings.load(database_url=database_url))


@pytest.mark.parametrize(
    "tables",
    [
        "FOR ALL TABLES",
        "FOR TABLES IN SCHEMA memory_pipeline",
        "FOR TABLE memory_pipeline.change, memory_pipeline.tenant, memory_logs",
    ],
)
def test_a_publication_that_was_made_later_is_reported(
    db: psycopg.Connection, database_url: str, settings: Settings, tables: str
) -> None:
    """Nobody runs migrate then; the subscriber would stop, and hold WAL here."""
    db.execute(f"CREATE PUBLICATION later {tables}".encode())
    told = tables.removesuffix(", memory_logs")
    done = CliRunner().invoke(app, ["status", "--json"], env=settings_environment(settings))
    (said,) = [p for p in json.loads(done.stdout)["problems"] if "publication" in p]
    assert said.startswith(f"publication later is {told}: it would replicate")
    with pytest.raises(ContractError, match=r"by name instead"):
        migrate(Settings.load(database_url=database_url))
    db.execute("DROP PUBLICATION later")
    done = CliRunner().invoke(app, ["status", "--json"], env=settings_environment(settings))
    assert not [p for p in json.loads(done.stdout)["problems"] if "publication" in p]


def test_a_publication_of_named_tables_is_fine(db: psycopg.Connection, database_url: str) -> None:
    """The application's own replication goes on."""
    db.execute("CREATE PUBLICATION named FOR TABLE memory_logs")

    migrate(Settings.load(database_url=database_url))

"""Capture of writes, TRUNCATEs and hints."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psycopg
import pytest
from psycopg import IsolationLevel

from memory_pipeline.domain.types import TenantId
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.postgres.status import PostgresStatus
from memory_pipeline.settings import Settings
from memory_pipeline_tests.integration.capture.words import (
    ANOTHER_VECTOR,
    Changes,
    changes,
    truncations,
)
from memory_pipeline_tests.words import one, remember


@pytest.mark.parametrize(
    ("statement", "captured"),
    [
        pytest.param(
            "INSERT INTO memory_logs (id, user_id, raw_data) VALUES (2, 'ada', '{}')",
            [("ada", 2)],
            id="insert",
        ),
        pytest.param(
            "INSERT INTO memory_logs (id, user_id, raw_data)"
            " VALUES (2, 'ada', '{}'), (3, 'bob', '{}'), (4, 'ada', '{}')",
            [("ada", 2), ("bob", 3), ("ada", 4)],
            id="insert of many rows",
        ),
        pytest.param(
            "INSERT INTO memory_logs (id, user_id, raw_data) VALUES (1, 'ada', '{\"n\": 2}')"
            " ON CONFLICT (id) DO UPDATE SET raw_data = EXCLUDED.raw_data",
            [("ada", 1)],
            id="upsert that updates",
        ),
        pytest.param(
            "INSERT INTO memory_logs (id, user_id, raw_data) VALUES (2, 'ada', '{}')"
            " ON CONFLICT (id) DO UPDATE SET raw_data = EXCLUDED.raw_data",
            [("ada", 2)],
            id="upsert that inserts",
        ),
        pytest.param(
            "MERGE INTO memory_logs m USING (VALUES (1), (2)) AS g (id) ON m.id = g.id"
            " WHEN MATCHED THEN DELETE"
            " WHEN NOT MATCHED THEN INSERT (id, user_id, raw_data) VALUES (g.id, 'bob', '{}')",
            [("ada", 1), ("bob", 2)],
            id="merge",
        ),
        pytest.param("UPDATE memory_logs SET raw_data = '{\"n\": 2}'", [("ada", 1)], id="content"),
        pytest.param(
            "UPDATE memory_logs SET raw_data = '{\"n\": 1.00}'",
            [("ada", 1)],
            id="content equal by value but not as printed",
        ),
        pytest.param("UPDATE memory_logs SET project_id = NULL", [("ada", 1)], id="project"),
        pytest.param(
            "UPDATE memory_logs SET created_at = '2020-02-02'", [("ada", 1)], id="created_at"
        ),
        pytest.param(
            f"UPDATE memory_logs SET embedding = {ANOTHER_VECTOR}",
            [("ada", 1)],
            id="vector of the application",
        ),
        pytest.param(
            "UPDATE memory_logs SET embedding = NULL", [("ada", 1)], id="vector taken away"
        ),
        pytest.param("DELETE FROM memory_logs", [("ada", 1)], id="delete"),
        pytest.param(
            "UPDATE memory_logs SET id = 9", [("ada", 1), ("ada", 9)], id="another primary key"
        ),
        pytest.param(
            "UPDATE memory_logs SET user_id = 'bob', id = 9",
            [("ada", 1), ("bob", 9)],
            id="move under another primary key",
        ),
        pytest.param(
            "WITH gone AS (DELETE FROM memory_logs RETURNING *)"
            " INSERT INTO memory_logs (id, user_id, raw_data) SELECT 2, 'bob', raw_data FROM gone",
            [("ada", 1), ("bob", 2)],
            id="two writes in one statement",
        ),
    ],
)
@pytest.mark.usefixtures("memory")
def test_every_write_that_a_document_depends_on_is_captured(
    db: psycopg.Connection, statement: str, captured: Changes
) -> None:
    """P1: one change for each tenant and memory concerned, whatever statement wrote it."""
    db.execute(statement)

    assert sorted(changes(db), key=str) == sorted(captured, key=str)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("UPDATE memory_logs SET raw_data = raw_data", id="no value changes"),
        pytest.param("UPDATE memory_logs SET updated_at = '2020-02-02'", id="updated_at alone"),
        pytest.param("UPDATE memory_logs SET raw_data = '{}' WHERE id = 404", id="no row matches"),
        pytest.param(
            "INSERT INTO memory_logs (id, user_id, raw_data) VALUES (1, 'ada', '{}')"
            " ON CONFLICT DO NOTHING",
            id="upsert that does nothing",
        ),
    ],
)
@pytest.mark.usefixtures("memory")
def test_a_write_that_no_document_depends_on_is_skipped(
    db: psycopg.Connection, statement: str
) -> None:
    """P6: what changes no document costs no work."""
    db.execute(statement)

    assert changes(db) == []


def test_copy_is_captured_row_by_row(db: psycopg.Connection) -> None:
    """P1: bulk loading does not slip by."""
    with db.cursor().copy("COPY memory_logs (id, user_id, raw_data) FROM STDIN") as copy:
        for number in range(1, 101):
            copy.write_row((number, "ada" if number % 2 else "bob", "{}"))

    assert changes(db) == [("ada" if n % 2 else "bob", n) for n in range(1, 101)]


@pytest.mark.usefixtures("memory")
def test_a_move_is_a_change_of_both_tenants(db: psycopg.Connection) -> None:
    """P3: the old tenant's collection is told as well, so that it lets go of the memory."""
    db.execute("UPDATE memory_logs SET user_id = 'bob'")

    assert changes(db) == [("ada", 1), ("bob", 1)]


def test_a_transaction_that_is_rolled_back_leaves_no_change(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """P1: the change lives and dies with the application's transaction."""
    with db.transaction(force_rollback=True):
        remember(db)
        db.execute("TRUNCATE memory_logs")

    assert (changes(db), truncations(db)) == ([], 0)
    assert outbox.pending_tenants() == []


def test_a_savepoint_that_is_rolled_back_leaves_no_change(db: psycopg.Connection) -> None:
    """P1: only what the application kept is captured."""
    with db.transaction():
        kept = remember(db, "ada")
        with db.transaction(force_rollback=True):
            remember(db, "bob")

    assert changes(db) == [("ada", kept)]


def test_capture_works_under_the_replica_role(db: psycopg.Connection) -> None:
    """P1: restores and logical replication apply rows with triggers off, but for ALWAYS ones."""
    db.execute("SET session_replication_role = replica")
    memory_id = remember(db)
    db.execute("TRUNCATE memory_logs")

    assert (changes(db), truncations(db)) == ([("ada", memory_id)], 1)


def test_a_write_of_a_users_own_trigger_is_captured(db: psycopg.Connection) -> None:
    """P1: rows written by triggers of the application are rows like any other."""
    db.execute(
        "CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO memory_logs (user_id, raw_data) VALUES ('echo', NEW.raw_data);"
        " RETURN NULL; END $$"
    )
    db.execute(
        "CREATE TRIGGER zz_echo AFTER INSERT ON memory_logs FOR EACH ROW"
        " WHEN (NEW.user_id <> 'echo') EXECUTE FUNCTION echo()"
    )
    memory_id = remember(db)

    assert changes(db) == [("ada", memory_id), ("echo", memory_id + 1)]


def test_a_truncate_is_a_reset_of_every_registered_tenant(
    db: psycopg.Connection, database: Database, outbox: PostgresOutbox
) -> None:
    """P4: everything of everyone went, and each tenant is reconciled."""
    for tenant in ("ada", "bob"):
        PostgresRegistry(database).register(TenantId(tenant))
    db.execute("TRUNCATE memory_logs")
    assert (changes(db), truncations(db)) == ([], 1)

    assert {p.tenant for p in outbox.pending_tenants()} == {"ada", "bob"}

    assert sorted(changes(db)) == [("ada", None), ("bob", None)]
    assert truncations(db) == 0


def test_a_truncate_is_pending_before_it_is_fanned_out(
    db: psycopg.Connection, database: Database
) -> None:
    """P1: nothing looks done while a TRUNCATE waits for a worker."""
    db.execute("TRUNCATE memory_logs")

    assert PostgresStatus(database).totals().pending_changes == 1


def test_two_workers_fan_a_truncate_out_once(
    db: psycopg.Connection, database: Database, outbox: PostgresOutbox
) -> None:
    """P2: concurrent polling does not multiply the work."""
    PostgresRegistry(database).register(TenantId("ada"))
    db.execute("TRUNCATE memory_logs")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: outbox.pending_tenants(), range(8)))

    assert changes(db) == [("ada", None)]


def test_a_tenant_that_registers_beside_an_old_truncate_is_reset_too(
    db: psycopg.Connection, database: Database, database_url: str, outbox: PostgresOutbox
) -> None:
    """P4: a TRUNCATE whose snapshot is older than a tenant still reaches that tenant."""
    with psycopg.connect(database_url) as truncating:
        truncating.isolation_level = IsolationLevel.REPEATABLE_READ
        truncating.execute("SELECT count(*) FROM memory_pipeline.tenant")
        remember(db, "late")
        PostgresRegistry(database).register(TenantId("late"))
        truncating.execute("TRUNCATE memory_logs")

    outbox.pending_tenants()

    assert ("late", None) in changes(db)


def test_truncate_and_copy_in_one_transaction_give_resets_and_changes(
    db: psycopg.Connection, database: Database, outbox: PostgresOutbox
) -> None:
    """P2: a table swap in one transaction is a reset of what was and a change of what is."""
    PostgresRegistry(database).register(TenantId("ada"))
    with db.transaction():
        db.execute("TRUNCATE memory_logs")
        with db.cursor().copy("COPY memory_logs (id, user_id, raw_data) FROM STDIN") as copy:
            copy.write_row((7, "bob", "{}"))

    outbox.pending_tenants()

    assert sorted(changes(db)) == [("ada", None), ("bob", 7)]


def test_ids_that_a_truncate_restarted_are_captured_for_their_new_tenant(
    db: psycopg.Connection, database: Database, outbox: PostgresOutbox
) -> None:
    """P3: a reused id is a change of the new tenant, and the old one is reset."""
    first = remember(db, "ada")
    PostgresRegistry(database).register(TenantId("ada"))
    db.execute("DELETE FROM memory_pipeline.change")
    db.execute("TRUNCATE memory_logs RESTART IDENTITY")

    assert remember(db, "bob") == first
    outbox.pending_tenants()

    assert sorted(changes(db)) == [("ada", None), ("bob", first)]


def test_a_change_wakes_whoever_listens(db: psycopg.Connection, database_url: str) -> None:
    """F: a hint with an empty payload, which no write can outgrow."""
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("LISTEN memory_pipeline")
        remember(db)

        hints = list(listener.notifies(timeout=5, stop_after=1))

    assert [hint.payload for hint in hints] == [""]


def test_no_hint_is_sent_when_hints_are_off(db: psycopg.Connection, database_url: str) -> None:
    """P6: NOTIFY takes a lock at commit; the switch takes that away, at any time."""
    migrate(Settings.load(database_url=database_url, notify="off"))
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("LISTEN memory_pipeline")
        memory_id = remember(db)
        db.execute("NOTIFY memory_pipeline, 'the test itself'")

        hints = list(listener.notifies(timeout=5, stop_after=1))

    assert [hint.payload for hint in hints] == ["the test itself"]
    assert changes(db) == [("ada", memory_id)]


@pytest.fixture(scope="module")
def two_phase_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Start a Postgres of its own with two-phase commit, which only a restart switches on."""
    place = tmp_path_factory.mktemp("two_phase") / "data"
    server = start_postgres(place, durable=False)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET max_prepared_transactions = 4")
    server.stop()
    server = start_postgres(place, durable=False)
    yield server
    server.remove()


def test_two_phase_commit_works_with_hints_on(two_phase_server: EmbeddedPostgres) -> None:
    """PREPARE TRANSACTION fails after a NOTIFY, so there is none, and capture stays."""
    two_phase_server.create_database("prepared")
    url = two_phase_server.url("prepared")
    migrate(Settings.load(database_url=url, notify="on"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("BEGIN")
        memory_id = remember(connection)
        connection.execute("PREPARE TRANSACTION 'one'")
        assert changes(connection) == []
        connection.execute("COMMIT PREPARED 'one'")

        assert changes(connection) == [("ada", memory_id)]


def long_text() -> str:
    """Return 5,000 characters that do not compress below an index page's limit."""
    return np.random.default_rng(7).bytes(2500).hex()


@pytest.mark.parametrize(
    "user_id",
    [
        pytest.param("", id="empty"),
        pytest.param("a\nb\t\\N'\"", id="control characters and quotes"),
        pytest.param("\N{SNOWMAN}\N{PILE OF POO}", id="emoji"),
        pytest.param("x" * 2000, id="2,000 characters"),
        pytest.param(
            long_text(),
            id="5,000 random characters",
        ),
    ],
)
def test_the_application_may_write_any_user_id(db: psycopg.Connection, user_id: str) -> None:
    """P6: the trigger raises nothing of its own."""
    remember(db, user_id)

    assert one(db, "SELECT count(*) FROM memory_logs") == 1


def test_a_write_that_cannot_be_captured_is_not_stored(db: psycopg.Connection) -> None:
    """P1: the trigger swallows nothing."""
    db.execute("ALTER TABLE memory_pipeline.change RENAME TO gone")
    with pytest.raises(psycopg.Error):
        remember(db)

    assert one(db, "SELECT count(*) FROM memory_logs") == 0


def test_the_trigger_is_not_led_astray_by_a_search_path(db: psycopg.Connection) -> None:
    """P1: functions and tables of the same names in the application's schemas change nothing."""
    db.execute("CREATE SCHEMA evil")
    db.execute("CREATE TABLE evil.change (tenant text, memory_id bigint)")
    db.execute("CREATE TEMP TABLE change (tenant text, memory_id bigint)")
    db.execute(
        "CREATE FUNCTION evil.pg_current_xact_id() RETURNS text LANGUAGE sql AS $$ SELECT '1' $$"
    )
    db.execute("SET search_path = evil, public, pg_catalog")
    memory_id = remember(db)

    assert changes(db) == [("ada", memory_id)]

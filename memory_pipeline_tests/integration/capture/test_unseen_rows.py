"""Rows that come, go or move without a row trigger of the table, and triggers that cannot read."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner

from memory_pipeline.cli import app as app_of_cli
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import ContractError
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.local.postgres import start_postgres
from memory_pipeline.local.processes import wait_for_end
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.postgres.status import PostgresStatus
from memory_pipeline.settings import Settings
from memory_pipeline_tests.integration.capture.words import changes, create_table, truncations
from memory_pipeline_tests.words import ADA, BOB, drained_well, held, one

INSERT = "INSERT INTO {} (id, user_id, raw_data) VALUES ({}, '{}', '{{}}')"


def insert(
    db: psycopg.Connection, memory_id: int, user_id: str, table: str = "memory_logs"
) -> None:
    """Insert one memory into a table."""
    db.execute(INSERT.format(table, memory_id, user_id).encode())


@pytest.fixture
def partitioned(empty_database: str) -> str:
    """Return the address of a database with a partitioned memory_logs, migrated."""
    create_table(empty_database, tail="PARTITION BY RANGE (id)")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE first PARTITION OF memory_logs FOR VALUES FROM (1) TO (100)"
        )
        connection.execute(
            "CREATE TABLE second (LIKE memory_logs INCLUDING ALL EXCLUDING IDENTITY)"
        )
    migrate(Settings.load(database_url=empty_database))
    return empty_database


@pytest.fixture
def parts(partitioned: str, settings: Settings, unmarked_chroma: None) -> Iterator[Pipeline]:
    """Return the parts, connected to that database."""
    url = Settings.load(database_url=partitioned).database_url
    with opened(
        settings.model_copy(update={"database_url": url}), embedder=HashingEmbedder()
    ) as pipeline:
        yield pipeline


@pytest.fixture
def app(partitioned: str) -> Iterator[psycopg.Connection]:
    """Connect to it as the application."""
    with psycopg.connect(partitioned, autocommit=True) as connection:
        yield connection


def looks_again(parts: Pipeline) -> Pipeline:
    """Return the same as a process that has just started."""
    parts.outbox._look_due = 0.0
    return parts


ATTACH = "ALTER TABLE memory_logs ATTACH PARTITION second FOR VALUES FROM (100) TO (200)"


def test_the_rows_of_an_attached_partition_become_searchable(
    parts: Pipeline, app: psycopg.Connection
) -> None:
    """P1. What broke: an ATTACH fires no trigger, and nothing but a verify noticed it."""
    insert(app, 1, ADA)
    drained_well(parts)
    insert(app, 100, ADA, "second")
    insert(app, 101, BOB, "second")
    assert parts.status.unseen() == []
    app.execute(ATTACH)
    assert ["a partition came" in reason for reason in parts.status.unseen()] == [True]

    drained_well(looks_again(parts))

    assert (held(parts, ADA), held(parts, BOB)) == ({1, 100}, {101})
    assert parts.status.unseen() == []


@pytest.mark.parametrize(
    "leave",
    [
        "ALTER TABLE memory_logs DETACH PARTITION second",
        "DROP TABLE second",
        "TRUNCATE second",
    ],
)
def test_the_rows_that_go_with_a_partition_leave_the_index(
    parts: Pipeline, app: psycopg.Connection, leave: str
) -> None:
    """P4: what is gone from the table has no document."""
    app.execute(ATTACH)
    insert(app, 1, ADA)
    insert(app, 100, ADA)
    drained_well(parts)
    app.execute(leave.encode())

    drained_well(looks_again(parts))

    assert held(parts, ADA) == {1}


@pytest.mark.parametrize("table", ["memory_logs", "first"])
def test_what_was_written_while_triggers_were_off_is_found(
    parts: Pipeline, app: psycopg.Connection, table: str
) -> None:
    """P1: they are on again when somebody looks, and ALWAYS; the row in the catalog is another."""
    insert(app, 1, ADA)
    drained_well(parts)
    with app.transaction():
        app.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
        insert(app, 2, ADA, table)
        insert(app, 3, BOB, table)
        app.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER memory_pipeline_capture".encode())
        if table == "memory_logs":
            app.execute("ALTER TABLE memory_logs ENABLE ALWAYS TRIGGER memory_pipeline_truncate")
    assert parts.status.broken_capture() == []

    drained_well(looks_again(parts))

    assert (held(parts, ADA), held(parts, BOB)) == ({1, 2}, {3})


PLAIN_DAY = (
    "VACUUM memory_logs",
    "ANALYZE memory_logs",
    "CREATE INDEX ON memory_logs (created_at)",
    "ALTER TABLE memory_logs ADD COLUMN notes text DEFAULT 'none'",
    "CREATE TRIGGER own AFTER INSERT ON memory_logs EXECUTE FUNCTION memory_pipeline.hint()",
    "DROP TRIGGER own ON memory_logs",
    "GRANT SELECT ON memory_logs TO PUBLIC",
)


def test_what_leaves_every_row_where_it_was_compares_nothing(
    parts: Pipeline, app: psycopg.Connection
) -> None:
    """Maintenance of a plain day, and another migrate, cost no comparison of every tenant."""
    insert(app, 1, ADA)
    drained_well(parts)
    for statement in PLAIN_DAY:
        app.execute(statement.encode())
    migrate(parts.settings)
    looks_again(parts).outbox.pending_tenants()

    assert (changes(app), parts.status.unseen()) == ([], [])


def test_a_new_version_of_the_triggers_compares_nothing(
    parts: Pipeline, app: psycopg.Connection
) -> None:
    """An upgrade replaces the triggers, and nobody has written meanwhile."""
    insert(app, 1, ADA)
    drained_well(parts)
    app.execute("COMMENT ON FUNCTION memory_pipeline.capture() IS 'an older version'")

    migrate(parts.settings)
    looks_again(parts).outbox.pending_tenants()

    assert (changes(app), parts.status.unseen()) == ([], [])


def test_an_upgrade_hides_no_row_that_came_unseen(parts: Pipeline, app: psycopg.Connection) -> None:
    """P1: the new triggers are not taken for those under which all tenants were covered."""
    insert(app, 1, ADA)
    drained_well(parts)
    insert(app, 100, ADA, "second")
    app.execute(ATTACH)
    app.execute("COMMENT ON FUNCTION memory_pipeline.capture() IS 'an older version'")

    migrate(parts.settings)
    drained_well(looks_again(parts))

    assert held(parts, ADA) == {1, 100}


def test_only_one_of_many_processes_has_everything_compared(
    parts: Pipeline, app: psycopg.Connection, partitioned: str
) -> None:
    """The comparison is asked for once, whoever notices first."""
    insert(app, 1, ADA)
    drained_well(parts)
    app.execute(ATTACH)
    with closing(Database(partitioned)) as database:
        for outbox in (parts.outbox, *(PostgresOutbox(database, parts.settings) for _ in "ab")):
            outbox._look_due = 0.0
            outbox.pending_tenants()

    assert changes(app) == [("ada", None)]


# ---- columns


GONE = {
    "dropped tenant": "ALTER TABLE memory_logs DROP COLUMN user_id CASCADE",
    "dropped project": "ALTER TABLE memory_logs DROP COLUMN project_id",
    "renamed tenant": "ALTER TABLE memory_logs RENAME COLUMN user_id TO owner",
    "renamed content": "ALTER TABLE memory_logs RENAME COLUMN raw_data TO content",
    "renamed vector": "ALTER TABLE memory_logs RENAME COLUMN embedding TO vector",
    "renamed time": "ALTER TABLE memory_logs RENAME COLUMN updated_at TO changed_at",
    "renamed id": "ALTER TABLE memory_logs RENAME COLUMN id TO key",
    "another id": "ALTER TABLE memory_logs ALTER COLUMN id DROP IDENTITY;"
    " ALTER TABLE memory_logs ALTER COLUMN id TYPE text USING 'm' || id",
}


@pytest.mark.parametrize("change", GONE.values(), ids=GONE)
def test_no_write_fails_for_what_the_columns_have_become(
    db: psycopg.Connection, database_url: str, change: str
) -> None:
    """P6. What broke: every write of the application failed inside `capture()`."""
    insert(db, 1, ADA)
    db.execute("DELETE FROM memory_pipeline.change")
    psycopg.ClientCursor(db).execute(change.encode())
    columns = "SELECT string_agg(attname, ',') FROM pg_attribute WHERE NOT attisdropped"
    named = str(one(db, f"{columns} AND attnum > 0 AND attrelid = 'memory_logs'::regclass"))

    copied = ",".join(n for n in named.split(",") if n not in {"id", "key"})
    key = "key" if "key" in named.split(",") else "id"
    new = "'m2'" if "another id" in GONE and "TYPE text" in change else "2"
    with db.transaction():
        db.execute(
            f"INSERT INTO memory_logs ({key}, {copied}) SELECT {new}, {copied}"
            " FROM memory_logs".encode()
        )
        db.execute(
            f"UPDATE memory_logs SET {copied.split(',')[0]} = {copied.split(',')[0]}".encode()
        )
        db.execute(f"DELETE FROM memory_logs WHERE {key} = {new}".encode())

    # A row whose columns can all be read is captured as ever; else one row stands for the rest.
    assert truncations(db) + len(changes(db)) >= 1
    assert truncations(db) <= 1
    if truncations(db):
        with closing(Database(database_url)) as database:
            status = PostgresStatus(database)
            assert any("columns of the table have changed" in reason for reason in status.unseen())


def test_every_tenant_is_compared_once_the_columns_are_back(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1: what was written meanwhile becomes searchable, that of new tenants too."""
    insert(db, 1, ADA)
    drained_well(pipeline)
    db.execute("ALTER TABLE memory_logs RENAME COLUMN project_id TO project")
    insert(db, 2, ADA)
    insert(db, 3, BOB)
    db.execute("DELETE FROM memory_logs WHERE id = 1")
    with pytest.raises(ContractError, match="memory-pipeline migrate"):
        pipeline.outbox.pending_tenants()
    with pytest.raises(ContractError, match="has no column project_id"):
        migrate(pipeline.settings)
    db.execute("ALTER TABLE memory_logs RENAME COLUMN project TO project_id")

    drained_well(pipeline)

    assert (held(pipeline, ADA), held(pipeline, BOB)) == ({2}, {3})


def test_a_sync_waits_for_the_rows_of_a_new_tenant_too(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1. What broke: what asked for the newest change first took the reset, and read no row."""
    db.execute("ALTER TABLE memory_logs RENAME COLUMN project_id TO project")
    insert(db, 1, BOB)
    db.execute("ALTER TABLE memory_logs RENAME COLUMN project TO project_id")

    newest = pipeline.outbox.newest_of_all()
    waiting = pipeline.outbox.remaining(newest, None)

    assert [(w.tenant, w.changes) for w in waiting] == [(BOB, 1)]
    drained_well(pipeline)
    assert held(pipeline, BOB) == {1}


def test_a_rolled_back_write_leaves_no_mark(db: psycopg.Connection) -> None:
    """The mark of the transaction goes with the savepoint that made it."""
    db.execute("ALTER TABLE memory_logs RENAME COLUMN project_id TO project")
    with db.transaction():
        with db.transaction(force_rollback=True):
            insert(db, 1, ADA)
        insert(db, 2, ADA)

    assert truncations(db) == 1


# ---- what migrate refuses and status names


def child_table(db: psycopg.Connection) -> None:
    """Have a table inherit from memory_logs."""
    db.execute("CREATE TABLE child () INHERITS (memory_logs)")


def foreign_partition(db: psycopg.Connection) -> None:
    """Have a partition whose rows are on another server."""
    db.execute("CREATE EXTENSION postgres_fdw")
    db.execute("CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw")
    db.execute(
        "CREATE FOREIGN TABLE far PARTITION OF memory_logs FOR VALUES FROM (500) TO (600)"
        " SERVER elsewhere"
    )


def unlogged(db: psycopg.Connection) -> None:
    """Have a table that a crash empties."""
    db.execute("ALTER TABLE memory_logs SET UNLOGGED")


@pytest.mark.parametrize(
    ("spoil", "said", "tail"),
    [
        pytest.param(child_table, "child inherits from public.memory_logs", "", id="inherits"),
        pytest.param(unlogged, "is UNLOGGED, and a crash", "", id="unlogged"),
    ],
)
def test_rows_without_a_trigger_are_refused_and_named(
    empty_database: str,
    spoil: Callable[[psycopg.Connection], None],
    said: str,
    tail: str,
) -> None:
    """B7: before the attach by `migrate`, after it by `status`, in one sentence that mends it."""
    create_table(empty_database, tail=tail)
    migrated = Settings.load(database_url=empty_database)
    migrate(migrated)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        spoil(connection)
        with closing(Database(empty_database)) as database:
            assert any(said in problem for problem in PostgresStatus(database).broken_capture())
        with pytest.raises(ContractError, match=said):
            migrate(migrated)


def test_a_database_that_cannot_hold_every_memory_is_refused(
    empty_database: str,
) -> None:
    """B16: what another encoding cannot hold would fail one write at a time."""
    name = f"latin_{uuid4().hex[:12]}"
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE_PROVIDER libc"
            " LOCALE 'C' TEMPLATE template0".encode()
        )
        there = empty_database.replace(connection.info.dbname, name)

    with pytest.raises(ContractError, match=r"encoding of the database is LATIN1.*UTF8"):
        migrate(Settings.load(database_url=there))


def test_a_tenant_of_two_spellings_is_refused(empty_database: str) -> None:
    """D21. What broke: `verify` counted such memories twice and found nothing wrong."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        try:
            connection.execute(
                "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2',"
                " deterministic = false)"
            )
        except psycopg.errors.FeatureNotSupported:  # a Postgres without ICU, as the embedded one
            connection.execute("CREATE COLLATION folded (provider = libc, locale = 'C')")
            connection.execute(
                "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'folded'"
            )
    create_table(empty_database, user_id="text COLLATE folded NOT NULL")

    with pytest.raises(ContractError, match=r'two spellings are one value.*COLLATE "C"'):
        migrate(Settings.load(database_url=empty_database))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": "uuid PRIMARY KEY"}, r"id is uuid; it has to be bigint; keep that key"),
        ({"user_id": "jsonb"}, r"user_id is jsonb"),
    ],
)
def test_a_refusal_says_what_would_work(
    empty_database: str, columns: dict[str, str], said: str
) -> None:
    """B10: a sentence that people can act on."""
    create_table(empty_database, **columns)

    with pytest.raises(ContractError, match=said):
        migrate(Settings.load(database_url=empty_database))


def test_a_column_of_another_name_is_had_as_a_generated_one(
    empty_database: str, settings: Settings, unmarked_chroma: None
) -> None:
    """B10: what the refusal of a missing column advises works."""
    create_table(empty_database, owner="text NOT NULL")
    at_url = Settings.load(database_url=empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("ALTER TABLE memory_logs DROP COLUMN user_id")
        with pytest.raises(ContractError, match=r"no column user_id.*GENERATED ALWAYS AS"):
            migrate(at_url)
        connection.execute(
            "ALTER TABLE memory_logs ADD COLUMN user_id text GENERATED ALWAYS AS (owner) STORED"
        )
        migrate(at_url)
        connection.execute("INSERT INTO memory_logs (owner, raw_data) VALUES ('ada', '{}')")
    there = settings.model_copy(update={"database_url": at_url.database_url})

    with opened(there, embedder=HashingEmbedder()) as pipeline:
        drained_well(pipeline)
        assert len(held(pipeline, ADA)) == 1


# ---- what status says


def test_status_says_what_cannot_be_right(
    pipeline: Pipeline,
    db: psycopg.Connection,
) -> None:
    """B7. What broke: `memories 0, documents 2, pending 0`, and no word beside it."""
    insert(db, 1, ADA)
    insert(db, 2, ADA)
    drained_well(pipeline)
    environment = settings_environment(pipeline.settings)
    assert (
        "differs from the table"
        not in CliRunner().invoke(app_of_cli, ["status"], env=environment).output
    )
    with db.transaction():
        db.execute("ALTER TABLE memory_logs DISABLE TRIGGER ALL")
        db.execute("DELETE FROM memory_logs")
        db.execute("ALTER TABLE memory_logs ENABLE ALWAYS TRIGGER memory_pipeline_capture")
        db.execute("ALTER TABLE memory_logs ENABLE ALWAYS TRIGGER memory_pipeline_truncate")

    said = " ".join(CliRunner().invoke(app_of_cli, ["status"], env=environment).output.split())

    assert "rows may have changed unseen; the next sync compares every tenant" in said
    assert "0 memories of tenants, 2 documents, and nothing is pending" in said


def test_a_crash_that_empties_an_unlogged_table_is_noticed(tmp_path: Path) -> None:
    """B7: Postgres empties it at its start, and no trigger sees that."""
    server = start_postgres(tmp_path / "data")  # what was committed survives
    try:
        server.create_database("crashing")
        url = server.url("crashing")
        create_table(url)
        migrate(Settings.load(database_url=url))
        with psycopg.connect(url, autocommit=True) as connection:
            insert(connection, 1, ADA)
            connection.execute("ALTER TABLE memory_logs SET UNLOGGED")
        with closing(Database(url)) as database:
            PostgresRegistry(database).register(ADA)
            PostgresOutbox(database, Settings.load()).pending_tenants()
        identity = server.identity()
        assert identity is not None
        os.kill(identity.pid, signal.SIGQUIT)  # an immediate shutdown is a crash
        assert wait_for_end([identity], within=20)
        server.ensure_running()
        with psycopg.connect(url, autocommit=True) as connection:
            assert one(connection, "SELECT count(*) FROM memory_logs") == 0
            connection.execute("DELETE FROM memory_pipeline.change")
            with closing(Database(url)) as database:
                PostgresOutbox(database, Settings.load()).pending_tenants()

            assert [memory_id for _, memory_id in changes(connection)] == [None]
    finally:
        server.remove()


def test_a_session_that_stays_open_across_another_type_goes_on_writing(
    pipeline: Pipeline, db: psycopg.Connection, database_url: str
) -> None:
    """P6: its plans are of the old type, and Postgres refuses to run them."""
    insert(db, 1, ADA)
    drained_well(pipeline)
    with psycopg.connect(database_url, autocommit=True) as dba:
        dba.execute("ALTER TABLE memory_logs ALTER COLUMN user_id TYPE varchar(80)")
    insert(db, 2, ADA)
    db.execute("DELETE FROM memory_logs WHERE id = 1")
    pipeline.database.reconnect()

    drained_well(pipeline)

    assert held(pipeline, ADA) == {2}

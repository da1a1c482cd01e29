"""Prepare a database for the pipeline: check, create, capture, attach; safe to repeat.

The order is the design:
1. check: a database that does not meet the requirements is not changed
2. create the schema (and memory_logs where there is none)
3. capture: the triggers commit
4. attach: only then the existing tenants are registered and marked, so every row is either
   seen by the triggers or found by the attach
"""

import hashlib
import io
from importlib.resources import files
from typing import Any, Literal

import aiosql
import alembic.command
import alembic.config
import psycopg
from sqlalchemy import create_engine, pool
from sqlalchemy.exc import DBAPIError, OperationalError

from memory_pipeline.domain.table import Table
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ContractError, PostgresUnavailable, SettingsError
from memory_pipeline.postgres.connection import TableCursor, connect, with_table
from memory_pipeline.postgres.database import Connection, Database, queries
from memory_pipeline.postgres.ddl import (
    LOCK_TIMEOUT_MILLISECONDS,
    hasty_transaction,
    patient_attempts,
)
from memory_pipeline.postgres.preflight import check_contract
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.postgres.table_contract import broken_triggers
from memory_pipeline.postgres.update_triggers import backup_advice
from memory_pipeline.settings import Settings

Vectors = Literal["trust", "recompute"]

TENANTS_AT_ONCE = 1000

GRANTS = """\
-- 3. for the role that syncs (put its name in):
-- GRANT USAGE ON SCHEMA memory_pipeline TO …;
-- GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA memory_pipeline TO …;
-- GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA memory_pipeline TO …;
-- GRANT {rights} ON public.memory_logs TO …;
--    for what later versions add, as the role that runs the above:
-- ALTER DEFAULT PRIVILEGES IN SCHEMA memory_pipeline
--     GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO …;
-- ALTER DEFAULT PRIVILEGES IN SCHEMA memory_pipeline GRANT EXECUTE ON FUNCTIONS TO …;
--    as a superuser, where EXECUTE on these was revoked from PUBLIC; a restore is noticed by them:
-- GRANT EXECUTE ON FUNCTION pg_control_system(), pg_walfile_name(pg_lsn), pg_current_wal_lsn()
--     TO …;
-- 4. then, as that role: memory-pipeline migrate (attaches to the rows from before)"""


def migrate(settings: Settings, *, vectors: Vectors | None = None) -> list[str]:
    """Migrate the database that the settings name.

    Args:
        settings: where Postgres is, which column names the tenant, whether hints are sent.
        vectors: whether vectors that the pipeline did not write are the current model's:
            ``trust`` them, or ``recompute`` them (the default of a new installation).

    Returns:
        Sentences about what works, and may not be what is wanted.

    Raises:
        ContractError: the database or its memory_logs does not meet the requirements; nothing was
            changed.
        SettingsError: the settings contradict the decisions made when the pipeline was attached.
        PostgresUnavailable: Postgres cannot be reached.

    """
    database = Database.from_settings(settings, may_differ=True)
    try:
        with database.transaction() as connection:
            check_contract(connection, database.table)
        # The second of two concurrent migrates waits here, and finds nothing left to do.
        with connect(database.url) as one_at_a_time:
            queries().lock_migrations(one_at_a_time)
            _upgrade(database)
            with database.transaction() as connection:
                _decide(connection, settings, vectors)
            _capture(database, settings)
            _attach(database)
        return backup_advice(database, settings)
    finally:
        database.close()


def migration_sql(settings: Settings) -> str:
    """Return the SQL that migrate would run, for a DBA to run. Touches no database."""
    steps = (
        f"-- 1. schema\n{queries().find_vector.sql.replace('%(is_local)s', 'false')}\n"
        "CREATE SCHEMA IF NOT EXISTS memory_pipeline;\n" + _offline_sql(),
        f"-- 2. capture; with lock_timeout = '{LOCK_TIMEOUT_MILLISECONDS}ms', until it succeeds\n"
        + "\n\n".join(_capture_steps(settings)),
        GRANTS.format(rights="SELECT, UPDATE (embedding)" if settings.backup == "on" else "SELECT"),
    )
    return with_table("\n\n".join(steps) + "\n", Table.parse(settings.table))


def _alembic_config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(files("memory_pipeline.postgres.migrations")))
    return config


def _upgrade(database: Database) -> None:
    """Run the new migrations; never make the application wait for a lock on the outbox."""
    for attempt in patient_attempts():
        with attempt:
            _upgrade_at_once(database)


def _upgrade_at_once(database: Database) -> None:
    """Run the new migrations, or raise LockNotAvailable and change nothing."""
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(database.url, database.table),
        poolclass=pool.NullPool,
    )
    try:
        with engine.begin() as connection:
            driver = connection.connection.driver_connection
            queries().find_vector(driver, is_local=True)
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}")
            if not queries().schema_exists(driver):
                connection.exec_driver_sql("CREATE SCHEMA memory_pipeline")
            config = _alembic_config()
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise error.orig from error
        raise PostgresUnavailable(f"Postgres ended the migration: {error.orig}") from error
    except DBAPIError as error:
        raise ContractError(f"the schema cannot be created: {error.orig}") from error


def _offline_sql() -> str:
    out = io.StringIO()
    config = _alembic_config()
    config.output_buffer = out
    alembic.command.upgrade(config, "head", sql=True)
    return out.getvalue()


def _decide(connection: Connection, settings: Settings, vectors: Vectors | None) -> None:
    tenant_by, table = settings.tenant_by, settings.table
    queries().install(
        connection, table_name=table, tenant_by=tenant_by, vectors=vectors or "recompute"
    )
    if queries().attached_table(connection) != table:
        queries().set_table(connection, table_name=table)  # check_contract allows a new name alone
    decided = queries().installation(connection)
    if decided.tenant_by != tenant_by:
        raise SettingsError(
            f"MEMORY_PIPELINE_TENANT_BY={tenant_by!r}: this database was attached with "
            f"{decided.tenant_by!r}, and its collections are built so; set it back"
        )
    if vectors is not None and decided.vectors != vectors:
        queries().set_vectors(connection, vectors=vectors)


def _capture_steps(settings: Settings) -> list[str]:
    """Return the statements of capture; the last one stores their version on the function."""
    folder = files("memory_pipeline.postgres")
    named: Any = aiosql.from_path(
        str(folder / "capture.sql"), "psycopg", mandatory_parameters=False
    )
    table = Table.parse(settings.table)  # another table is another version
    steps = [
        with_table(getattr(named, name).sql, table)
        for name in (
            f"tenant_by_{settings.tenant_by}",
            "compare_all_function",
            "capture_function",
            "truncate_function",
            "storage_function",
            "hint_function",
            "capture_triggers",
            "hint_on" if settings.notify == "on" else "hint_off",
        )
    ]
    version = hashlib.sha256("".join(steps).encode()).hexdigest()[:16]
    return [*steps, f"COMMENT ON FUNCTION memory_pipeline.capture() IS '{version}';"]


def _capture(database: Database, settings: Settings) -> None:
    """Create missing or outdated functions and triggers; never make the application wait."""
    steps = _capture_steps(settings)
    with database.transaction() as connection:
        broken = broken_triggers(connection)
        version = queries().capture_version(connection)
        if not broken and version and version in steps[-1]:
            return
    for attempt in patient_attempts():
        with attempt, hasty_transaction(database) as connection:
            queries().lock_table(connection)  # nothing moves between the two looks at the catalog
            covered = not broken and queries().covers_storage(connection)
            cursor = TableCursor(connection)  # several statements at once need text mode
            for step in steps:
                cursor.execute(step)
            if broken:
                queries().detached(connection)
            if broken or covered:
                queries().set_storage(connection)


def _attach(database: Database) -> None:
    """Register the tenants that existed before the triggers; enqueue a reset of each."""
    with database.transaction() as connection:
        if queries().installation(connection).attached_at is not None:
            return
        queries().set_first_storage(connection)
    with database.transaction() as connection:
        queries().lift_time_limit(connection)
        tenants = [TenantId(row.tenant) for row in queries().existing_tenants(connection)]
    registry = PostgresRegistry(database)
    known = registry.keys()
    for tenant in tenants:
        if tenant not in known:
            registry.register(tenant)
    # A tenant registered before may have lost its last rows while capture was broken.
    tenants = sorted({*tenants, *known})
    with database.transaction() as connection:
        for at in range(0, len(tenants), TENANTS_AT_ONCE):
            queries().request_reset(connection, tenants=tenants[at : at + TENANTS_AT_ONCE])
        queries().attached(connection)

"""The grants that ``migrate --sql`` prints: enough for a role that syncs, and nothing else needed.

What broke: where EXECUTE is revoked from PUBLIC, the role of the printed grants could not sync.
"""

import re
from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner, Result

from memory_pipeline.cli import app
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.pipeline import opened
from memory_pipeline.postgres.migrate import migration_sql
from memory_pipeline.settings import Settings
from memory_pipeline_tests.integration.worker.words import living
from memory_pipeline_tests.words import ADA, held, pending, remember

WaitUntil = Callable[..., None]
MEMORY_LOGS = """
CREATE TABLE memory_logs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id text, project_id text,
    raw_data jsonb NOT NULL, embedding vector(768),
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
)"""
# A database of a company that trusts nobody by default.
REVOKED = """
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA memory_pipeline FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_walfile_name(pg_lsn), pg_current_wal_lsn()
    FROM PUBLIC
"""


@pytest.fixture
def roles(empty_database: str) -> Iterator[tuple[str, str]]:
    """Return a role that syncs and one that writes; neither owns anything."""
    syncs, writes = (f"{what}_{uuid4().hex[:8]}" for what in ("syncs", "writes"))
    with psycopg.connect(empty_database, autocommit=True) as dba:
        for role in (syncs, writes):
            dba.execute(f"CREATE ROLE {role} LOGIN")
        yield syncs, writes
        for role in (syncs, writes):
            dba.execute(f"DROP OWNED BY {role}")
            dba.execute(f"DROP ROLE {role}")


def printed_grants(printed: str, role: str) -> str:
    """Return the grants as a DBA takes them: the comment marks off, the role's name put in."""
    lines = re.findall(r"^-- (GRANT .*|ALTER .*|    .*[;,…]|    GRANT .*)$", printed, re.MULTILINE)
    assert sum("…" in line for line in lines) == 7
    return "\n".join(lines).replace("…", role)


def as_role(settings: Settings, url: str, role: str) -> Settings:
    """Return the settings of a process with this role."""
    url = url.replace("postgres@", f"{role}@")
    return settings.model_copy(
        update={"database_url": Settings.load(database_url=url).database_url}
    )


@pytest.fixture
def least(
    empty_database: str, roles: tuple[str, str], settings: Settings, unmarked_chroma: None
) -> Settings:
    """Prepare a database as a DBA does who runs what is printed; return the syncing role's."""
    syncs, writes = roles
    printed = migration_sql(settings)
    with psycopg.connect(empty_database, autocommit=True) as dba:
        dba.execute("CREATE EXTENSION vector")
        dba.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
        dba.execute(MEMORY_LOGS)
        dba.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON memory_logs TO {writes}")
        dba.execute(printed.encode())
        dba.execute(REVOKED)
        dba.execute(printed_grants(printed, syncs).encode())
    return as_role(settings, empty_database, syncs)


def command(settings: Settings, *words: str, code: int = 0) -> Result:
    """Run a command as a user does."""
    done = CliRunner().invoke(app, list(words), env=settings_environment(settings))
    assert done.exit_code == code, (words, done.output + done.stderr)
    return done


def test_the_printed_grants_are_enough_for_all_that_a_syncing_role_does(
    least: Settings, empty_database: str, roles: tuple[str, str], wait_until: WaitUntil
) -> None:
    """Every command that needs no owner, a worker, and the application's own role beside it."""
    _, writes = roles
    command(least, "migrate")
    with psycopg.connect(
        empty_database.replace("postgres@", f"{writes}@"), autocommit=True
    ) as application:
        first = remember(application, "ada", "the first")
        remember(application, "bob")
        command(least, "sync")
        application.execute('UPDATE memory_logs SET raw_data = \'{"summary": "another"}\'')
        application.execute("DELETE FROM memory_logs WHERE user_id = 'bob'")
    command(least, "sync")
    for words in (
        ("status",),
        ("tenants",),
        ("verify", "--repair"),
        ("rebuild", "--all", "--re-embed"),
        ("replay", "--tenant", "ada"),
        ("dead-letters", "list"),
        ("search", "another", "--tenant", "ada"),
        ("migrate",),
    ):
        said = command(least, *words)
        assert "permission" not in said.output + said.stderr
    with opened(least, embedder=HashingEmbedder()) as pipeline, living(pipeline):
        with psycopg.connect(empty_database, autocommit=True) as db:
            wait_until(lambda: pending(db) == 0, within=20)
            second = remember(db, "ada", "the second")
            wait_until(lambda: pending(db) == 0, within=20)
        assert held(pipeline, ADA) == {first, second}
        # It sees where the database is, so that a restore and a copy are noticed.
        assert pipeline.epochs.database_id().partition(":")[0]


def test_what_a_later_version_adds_is_granted_too(
    least: Settings, empty_database: str, roles: tuple[str, str]
) -> None:
    """The next migration creates tables and functions, as the role that ran the first."""
    with psycopg.connect(empty_database, autocommit=True) as dba:
        dba.execute("CREATE TABLE memory_pipeline.later (n int)")
        dba.execute("CREATE FUNCTION memory_pipeline.later() RETURNS int LANGUAGE sql RETURN 1")
    assert least.database_url is not None
    with psycopg.connect(least.database_url.get_secret_value(), autocommit=True) as role:
        role.execute("INSERT INTO memory_pipeline.later SELECT memory_pipeline.later()")


def test_a_missing_grant_is_one_sentence_that_says_where_the_grants_are(
    least: Settings, empty_database: str, roles: tuple[str, str]
) -> None:
    """Exit code 2, and no traceback."""
    command(least, "migrate")
    with psycopg.connect(empty_database, autocommit=True) as dba:
        remember(dba, "ada")
        dba.execute(f"REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA memory_pipeline FROM {roles[0]}")
    said = command(least, "status", code=2).stderr
    assert "lacks a grant: permission denied for function tenant_of" in said
    assert "migrate --sql" in said
    assert "Traceback" not in said
